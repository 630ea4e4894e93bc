"""One worker of the pool: claims a task, does the stage, says so, until it is told to stop."""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from redis import RedisError

from pruner.errors import InputError
from scorer.errors import BadReference
from service import stages
from service.jobs import Jobs
from service.queue import MAX_ATTEMPTS, Lease, LeaseLost, connect
from service.references import References
from service.schemas import Problem
from service.settings import Settings
from service.workspace import JobRecord, Workspace

log = logging.getLogger("winnow.worker")
_IDLE_SECONDS = 0.2  # between looks at an empty queue
_AWAY_SECONDS = 1.0  # between tries while Redis or the workspace is away
_BUSY_SECONDS = 2.0  # before a reference that another worker trains is looked for again
_BLOCKED_SECONDS = 3600.0  # the longest that a stage may hold its lease without a sign of progress


class Stopping(BaseException):
    """The worker was told to stop: its task goes back. No library is to catch it by the way."""


class Beater:
    """Beats a lease while a stage works on it; raises LeaseLost or Stopping there when the stage must end."""

    def __init__(self, worker: "Worker", lease: Lease) -> None:
        self._worker = worker
        self._lease = lease
        self._seconds = min(0.5, worker.jobs.queue.lease_ms / 4000)
        self._next = 0.0
        self._done = (0, 0)

    def __call__(self, documents: int, tokens: int) -> None:
        """Called between batches: how many documents and tokens of the task are done."""
        if self._worker.stopping.is_set():
            raise Stopping
        self._done = (documents, tokens)
        if time.monotonic() >= self._next:
            self._beat()
            self._next = time.monotonic() + self._seconds

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Beats from a thread around a part that cannot; for a bounded time, so that a hung one loses its lease."""
        over, lost = threading.Event(), threading.Event()

        def beat() -> None:
            deadline = time.monotonic() + _BLOCKED_SECONDS
            while not over.wait(self._seconds) and time.monotonic() < deadline:
                try:
                    self._beat()
                except LeaseLost:
                    lost.set()
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            with self._worker.interruptible():
                yield
        finally:
            over.set()
            thread.join()
        if lost.is_set():
            raise LeaseLost

    def _beat(self) -> None:
        # While Redis is away the work goes on: the lease is still there when it comes back, or this one is refused.
        with suppress(RedisError):
            self._worker.jobs.queue.beat(self._lease, *self._done, self._worker.device)


class Worker:
    """Works on the tasks of the stages it is for. `name` is unique among living workers."""

    def __init__(self, jobs: Jobs, references: References, kinds: tuple[str, ...], name: str) -> None:
        self.jobs = jobs
        self.stopping = threading.Event()
        self._references = references
        self._kinds = ("advance", *kinds)
        self._name = name
        self._interruptible = False

    @property
    def device(self) -> str:
        """What it runs references on: `cpu` or `cuda`, or "" while it has run none."""
        return self._references.known_device

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ends `run` after the batch at hand. A signal handler: it runs in the thread that works."""
        self.stopping.set()
        if self._interruptible:
            self._interruptible = False
            raise Stopping

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part that `stop` may end wherever it is: what it writes appears whole or not at all."""
        self._interruptible = True
        try:
            if self.stopping.is_set():
                raise Stopping
            yield
        finally:
            self._interruptible = False

    def run(self) -> None:
        """Works until it is stopped."""
        while not self.stopping.is_set():
            try:
                if not self.once():
                    self.stopping.wait(_IDLE_SECONDS)
            except (RedisError, OSError) as error:
                # A lease that is held lapses by itself.
                log.warning("waiting for Redis and the workspace: %s", error)
                self.stopping.wait(_AWAY_SECONDS)

    def once(self) -> bool:
        """Does a task, if there is one for it."""
        self.jobs.check()
        lease = self.jobs.queue.claim(self._name, self._kinds)
        if lease is not None:
            self._work(lease)
        return lease is not None

    def _work(self, lease: Lease) -> None:
        queue = self.jobs.queue
        try:
            if lease.attempts > MAX_ATTEMPTS:
                self._give_up(lease, _broken(lease, lease.error))
                return
            record = self.jobs.workspace.job(lease.job)
            if record is None:
                queue.forget(lease.job)
            else:
                queue.done(lease, *self._do(lease, record))
        except LeaseLost:
            log.info("%s of job %s is no longer ours", lease.task, lease.job)
        except Stopping:
            with suppress(LeaseLost):
                queue.release(lease)
        except stages.Busy:
            with suppress(LeaseLost):
                queue.release(lease, _BUSY_SECONDS)
        except (InputError, BadReference) as error:
            self._give_up(lease, Problem(title="The job cannot be done", status=422, detail=str(error)))
        except RedisError:
            raise
        except Exception as error:
            log.warning("%s of job %s, attempt %d", lease.task, lease.job, lease.attempts, exc_info=True)
            self._retry(lease, " ".join(f"{type(error).__name__}: {error}".split()))
            if self._references.on_gpu:
                raise SystemExit(1) from error  # a CUDA error stays with its process; a new one starts clean

    def _do(self, lease: Lease, record: JobRecord) -> stages.Counts:
        """Does a task's stage."""
        workspace, beater = self.jobs.workspace, Beater(self, lease)
        if lease.kind == "advance":
            self.jobs.advance(lease.job)
        elif lease.kind == "plan":
            with beater.blocking():
                stages.plan(workspace, record)
        elif lease.kind == "train":
            stages.train(workspace, record, self._references, beater)
        elif lease.kind == "score":
            return stages.score(workspace, record, lease.shard, self._references, beater)
        else:
            with beater.blocking():
                stages.select(workspace, record)
            self.jobs.refresh(lease.job)
        return stages.Counts()

    def _retry(self, lease: Lease, error: str) -> None:
        if lease.attempts >= MAX_ATTEMPTS:
            self._give_up(lease, _broken(lease, error))
            return
        with suppress(LeaseLost):
            self.jobs.queue.fail(lease, error, delay_seconds=0.25 * 2**lease.attempts)

    def _give_up(self, lease: Lease, problem: Problem) -> None:
        log.warning("job %s failed: %s", lease.job, problem.detail)
        try:
            self.jobs.queue.beat(lease)
            self.jobs.fail(lease.job, problem)
            self.jobs.queue.done(lease)  # of a job that had ended before: its other tasks stay
        except LeaseLost:
            pass
        except OSError:  # the workspace takes nothing now: the task waits, and this is said again
            with suppress(LeaseLost):
                self.jobs.queue.fail(lease, "", delay_seconds=_AWAY_SECONDS * 5)


def _broken(lease: Lease, error: str) -> Problem:
    status = 507 if "No space left" in error else 500
    detail = f"{lease.task.replace(':', ' ')} was tried {MAX_ATTEMPTS} times; the last time: {error}"
    return Problem(title="The job cannot go on", status=status, detail=detail)


def run(settings: Settings, name: str | None = None) -> None:
    """`winnow worker`: works until SIGTERM or SIGINT. Raises InputError for settings that are wrong."""
    if settings.redis is None:
        raise InputError("a worker needs the Redis of its service: give --redis URL")
    try:
        redis = connect(settings.redis)
    except ValueError as error:
        raise InputError(f"--redis {settings.redis}: {error}") from None
    workspace = Workspace(settings.workspace)
    worker = Worker(
        Jobs(workspace, redis, settings.lease_seconds),
        References(workspace, settings.device),
        settings.stages,
        name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
    )
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, worker.stop)
    worker.run()


def main(name: str) -> None:
    """A worker that `winnow serve` starts: its settings are in the environment."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    run(Settings(), name)
