"""Heartbeats: renews the leases of a worker from one background thread, as long as their tasks show signs of life."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from redis import RedisError

from service.queue.tasks import Lease, LeaseLost, TaskQueue
from service.store.records import TaskNote

_RATE_SECONDS = 30.0  # over which tokens a second are counted
_IDLE_SECONDS = 5.0  # without a task, after which the thread ends until the next one


class TaskEnded(BaseException):
    """The lease is lost: the task must end. No `except Exception` of a library may catch it."""


class Stopping(BaseException):
    """The worker was told to stop: its task goes back. No `except Exception` of a library may catch it."""


class LeaseBeat:
    """The signs of life of one task; see service.kinds.node.Beat. Calls are made by the thread that works."""

    def __init__(self, heartbeat: "Heartbeat", lease: Lease) -> None:
        self.lease = lease
        self.lost = False
        self.released = False
        self.lock = threading.Lock()  # held while the lease is renewed
        self._heartbeat = heartbeat
        self._allowed = heartbeat.silence_seconds
        self._marked = self._worked_from = time.monotonic()
        self._worked = 0.0  # seconds that were booked
        self._aside = False
        self._done, self._tokens_total = (0, 0), 0
        self._files = 0, 0
        self._bins: Mapping[int, tuple[int, int]] = {}
        self._rates: deque[tuple[float, int]] = deque([(self._marked, 0)])

    def __call__(
        self, documents: int = 0, tokens: int = 0, tokens_total: int = 0, files: int = 0, files_total: int = 0
    ) -> None:
        """Between two pieces of work. Raises TaskEnded and Stopping."""
        self._marked = time.monotonic()
        moved = (documents, tokens) != self._done
        self._done, self._tokens_total = (documents, tokens), tokens_total
        self._files = files, files_total
        if moved:
            self._rates.append((self._marked, tokens))
            while self._rates[0][0] < self._marked - _RATE_SECONDS and len(self._rates) > 2:
                self._rates.popleft()
        if self._heartbeat.stopping():
            raise Stopping
        if self.lost:
            raise TaskEnded
        self._heartbeat.between(self, moved)

    def show_bins(self, bins: Mapping[int, tuple[int, int]]) -> None:
        """What is scored so far; `bins` is not changed afterwards."""
        self._bins = bins

    @contextmanager
    def allow(self, seconds: float) -> Iterator[None]:
        """Lets up to so many seconds pass between two signs of life inside the block."""
        before, self._allowed = self._allowed, max(self._allowed, seconds)
        self._marked = time.monotonic()
        try:
            yield
        finally:
            self._marked, self._allowed = time.monotonic(), before

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Renews the lease, and books no time, while the worker does another task."""
        self.book()
        self._aside = True
        self._heartbeat.renew(self)  # readers of the job are told at once
        try:
            yield
        finally:
            self._aside = False
            self._marked = self._worked_from = time.monotonic()

    def book(self) -> float:
        """The milliseconds of work since the last call."""
        now = time.monotonic()
        since, self._worked_from = self._worked_from, now
        worked = 0.0 if self._aside else now - since
        self._worked += worked
        return 1000 * worked

    @property
    def worked_ms(self) -> int:
        """The milliseconds of work in all, as they were booked."""
        return round(1000 * self._worked)

    @property
    def alive(self) -> bool:
        """Whether the task has shown a sign of life lately enough."""
        return self._aside or time.monotonic() - self._marked < self._allowed

    def note(self, device: str) -> TaskNote:
        """What the readers of the job are told."""
        documents, tokens = self._done
        (start, before), (end, after) = self._rates[0], self._rates[-1]
        rate = (after - before) / (end - start) if end > start else 0.0
        return TaskNote(
            device=device,
            documents=documents,
            tokens=tokens,
            tokens_total=self._tokens_total,
            files=self._files[0],
            files_total=self._files[1],
            tokens_per_second=0.0 if self._aside else max(0.0, rate),
            set_aside=self._aside,
            bins=dict(self._bins),
        )


class Heartbeat:
    """Renews the leases that are held. `between` is called between two pieces of a task's work, by its thread."""

    def __init__(
        self,
        queue: TaskQueue,
        device: Callable[[], str],
        stopping: Callable[[], bool],
        between: Callable[[LeaseBeat, bool], None],
        alive: Path | None = None,
    ) -> None:
        self.silence_seconds = queue.lease_ms / 1000
        self.stopping = stopping
        self.between = between
        self._queue, self._device, self._alive = queue, device, alive
        self._seconds = min(0.5, queue.lease_ms / 4000)
        self._held: list[LeaseBeat] = []
        self._some = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def hold(self, lease: Lease) -> Iterator[LeaseBeat]:
        """Renews a lease inside the block."""
        beat = LeaseBeat(self, lease)
        with self._some:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()
            self._held.append(beat)
            self._some.notify()
        try:
            yield beat
        finally:
            with self._some:
                self._held.remove(beat)
            with beat.lock:  # no heartbeat is on its way when the caller gives the task back
                beat.released = True

    @property
    def held(self) -> list[LeaseBeat]:
        """The leases that are held now."""
        with self._some:
            return list(self._held)

    def show_life(self) -> None:
        """Touches the file by which probes see that the worker does not hang."""
        if self._alive is not None:
            with suppress(OSError):
                self._alive.touch()

    def renew(self, beat: LeaseBeat) -> None:
        """Renews a lease now, if its task is alive."""
        with beat.lock:
            if beat.lost or beat.released or not beat.alive:
                return
            self.show_life()
            # While Redis is away the work goes on: the lease is there when Redis comes back, or this call is refused.
            with suppress(RedisError):
                try:
                    self._queue.beat(beat.lease, beat.book(), beat.note(self._device()).model_dump_json())
                except LeaseLost:
                    beat.lost = True

    def _run(self) -> None:
        while True:
            with self._some:
                if not self._some.wait_for(lambda: self._held, _IDLE_SECONDS):
                    self._thread = None
                    return
                held = list(self._held)
            time.sleep(self._seconds)
            for beat in held:
                self.renew(beat)
