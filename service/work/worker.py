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
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

from redis import RedisError

from pruner.errors import InputError
from scorer.errors import BadReference
from service.contract.schemas import Problem
from service.jobs.jobs import Jobs
from service.kinds import stages
from service.kinds.model_loader import References
from service.kinds.shard_scoring import Begun
from service.queue.leases import Lease, LeaseLost, connect, shard_index, without_password
from service.run.settings import Settings
from service.store.workspace import JobRecord, Workspace
from service.work import score_now as answers

_STAGES = {"light": ("select", "plan"), "gpu": ("score", "train")}
STAGES = _STAGES["light"] + _STAGES["gpu"]
log = logging.getLogger("winnow.worker")
_IDLE_SECONDS = 0.2  # between looks at an empty queue
_AWAY_SECONDS = 1.0  # between tries while Redis or the workspace is away
_BUSY_SECONDS = 2.0  # before a reference that another worker trains is looked for again
_BLOCKED_SECONDS = 3600.0  # the longest that a stage may hold its lease without a sign of progress
_NICE = 10  # of a worker beside the API, which is to answer at once on the same cores
_LEAVE_SECONDS = 2.3  # that a worker has for its batch when it is told to stop
_RELEASE_SECONDS = 0.3  # and then to give its task back


class Stopping(BaseException):
    """The worker was told to stop: its task goes back. No library is to catch it by the way."""


class _Interrupted(BaseException):
    """What `interrupt` raises; it becomes LeaseLost. Again, no library is to catch it, or the work would go on."""


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
        if self._worker.stopping:
            raise Stopping
        moved = (documents, tokens) != self._done
        self._done = (documents, tokens)
        if time.monotonic() >= self._next:
            self._beat()
            if moved and self._lease.kind == "score":  # between two batches, not in the middle of one
                with suppress(RedisError):
                    self._worker.answer(self)
            self._next = time.monotonic() + self._seconds

    @contextmanager
    def blocking(self) -> Iterator[None]:
        """Beats from a thread around a part that cannot; for a bounded time, so that a hung one loses its lease."""
        over, lost = threading.Event(), threading.Event()
        worker = self._worker

        def beat() -> None:
            deadline = time.monotonic() + _BLOCKED_SECONDS
            while not over.wait(self._seconds) and time.monotonic() < deadline:
                try:
                    self._beat()
                except LeaseLost:
                    lost.set()
                    worker.interrupt()
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            with worker.interruptible():
                yield
        except _Interrupted:
            raise LeaseLost from None
        finally:
            over.set()
            thread.join()
        if lost.is_set():
            raise LeaseLost

    def _beat(self) -> None:
        self._worker.show_life()
        # While Redis is away the work goes on: the lease is still there when it comes back, or this one is refused.
        with suppress(RedisError):
            self._worker.jobs.queue.beat(self._lease, *self._done, self._worker.device)


class Worker:
    """Works on the tasks of the stages it is for. `name` is unique among living workers.

    `alive` is a file that it touches at every step, for a probe to see that it does not hang.
    """

    def __init__(
        self, jobs: Jobs, references: References, kinds: tuple[str, ...], name: str, alive: Path | None = None
    ) -> None:
        self.jobs = jobs
        self.stopping = False
        self._references = references
        self._kinds = ("advance", *kinds)
        self._name = name
        self._alive = alive
        self._interruptible = False
        self._ahead: tuple[tuple[str, str], Begun] | None = None  # a shard whose reading has begun, by job and task
        self._lease: Lease | None = None
        self._told: SimpleQueue[None] = SimpleQueue()  # the only lock that a signal handler may take
        self._over = threading.Event()

    def show_life(self) -> None:
        """Touches the file for probes."""
        if self._alive is not None:
            self._alive.touch()

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT as `stop`, and the signal by which `interrupt` reaches the thread that works."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        signal.signal(signal.SIGUSR1, self._lost)

    @property
    def device(self) -> str:
        """What it runs references on: `cpu` or `cuda`, or "" while it has run none."""
        return self._references.known_device

    def stop(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ends `run` after the batch at hand. A signal handler: it runs in the thread that works."""
        self.stopping = True
        self._told.put(None)
        if self._interruptible:
            self._interruptible = False
            raise Stopping

    def interrupt(self) -> None:
        """Ends, from another thread, an interruptible part whose lease is lost, if the worker listens."""
        if callable(signal.getsignal(signal.SIGUSR1)):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _lost(self, _signal: int, _frame: FrameType | None) -> None:
        if self._interruptible:
            self._interruptible = False
            raise _Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A part that `stop` may end wherever it is: what it writes appears whole or not at all."""
        self._interruptible = True
        try:
            if self.stopping:
                raise Stopping
            yield
        finally:
            self._interruptible = False

    def warm_up(self) -> None:
        """Loads what the first task will need, as far as can be told, so that no lease waits for it."""
        if not {"score", "train"} & set(self._kinds):
            return
        try:
            with self.interruptible():
                self._references.warm_up()
                for job in self.jobs.queue.jobs_with("score")[:1]:
                    stages.load_reference(self.jobs.workspace, job, self._references)
        except Stopping:
            pass
        except Exception as error:  # the task that needs it will say so, under its lease
            log.info("not warm: %s", error)

    def run(self) -> None:
        """Works until it is stopped."""
        threading.Thread(target=self._leave_in_time, daemon=True).start()
        self.warm_up()
        while not self.stopping:
            self.show_life()
            try:
                if not self.once():
                    time.sleep(_IDLE_SECONDS)
            except Stopping:
                break
            except (RedisError, OSError) as error:
                # A lease that is held lapses by itself.
                log.warning("waiting for Redis and the workspace: %s", error)
                time.sleep(_AWAY_SECONDS)
        self._take_ahead(None)
        self._over.set()
        self._told.put(None)

    def _leave_in_time(self) -> None:
        """Ends the process where what it is at, a batch or a Redis that hangs, does not end when it is stopped."""
        self._told.get()
        if self._over.wait(_LEAVE_SECONDS):
            return
        if (lease := self._lease) is not None:
            thread = threading.Thread(target=self._release, args=(lease,), daemon=True)
            thread.start()
            thread.join(_RELEASE_SECONDS)
        os._exit(0)

    def _release(self, lease: Lease) -> None:
        with suppress(LeaseLost, RedisError):
            self.jobs.queue.release(lease)

    def answer(self, beater: Beater | None = None) -> bool:
        """Answers a question, if one waits. In the middle of a task, `beater` holds on to its lease meanwhile."""
        if "score" not in self._kinds or (asked := self.jobs.questions.take()) is None:
            return False
        name, request, access = asked
        failed: Exception | None = None
        with beater.blocking() if beater is not None else self.interruptible():
            try:
                found = answers.answer(self.jobs.workspace, self._references, request, access)
            except Exception as error:
                log.warning("texts could not be scored", exc_info=True)
                failed, detail = error, " ".join(f"the worker failed: {type(error).__name__}: {error}".split())
                found = Problem(title="The texts cannot be scored", status=500, detail=detail)
            self.jobs.questions.give(name, found)
        if failed is not None and self._references.on_gpu:
            raise SystemExit(1) from failed  # a CUDA error stays with its process
        return True

    def once(self) -> bool:
        """Answers a question or does a task, if there is one for it."""
        if self.answer():
            return True
        self.jobs.check()
        wanted = ("", "") if self._ahead is None else self._ahead[0]
        self._lease = lease = self.jobs.queue.claim(self._name, self._kinds, wanted)
        if lease is None:
            self._take_ahead(None)
        else:
            self._work(lease)
            self._lease = None
        return lease is not None

    def _look_ahead(self) -> None:
        """Begins to read the shard that will probably be the next, for a job whose reference is loaded already.

        That needs no lease: it writes nothing, and if another worker gets the shard, a few batches were read in vain.
        """
        self._take_ahead(None)  # of a shard that began again with less memory
        try:
            found = self.jobs.queue.next_shard(self._name)
            record = None if found is None else self.jobs.workspace.job(found[0])
            if found is not None and record is not None:
                begun = stages.begin(self.jobs.workspace, record, shard_index(found[1]), self._references)
                self._ahead = None if begun is None else (found, begun)
        except Exception as error:  # whoever claims the shard will be told
            log.info("nothing is read ahead: %s", error)

    def _take_ahead(self, lease: Lease | None) -> Begun | None:
        """What has begun, if it is the lease's shard; anything else ends."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return None
        if lease is not None and ahead[0] == (lease.job, lease.task):
            return ahead[1]
        ahead[1].close()
        return None

    def _work(self, lease: Lease) -> None:
        queue = self.jobs.queue
        try:
            if lease.attempts > lease.limit:
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
        except stages.ScoresGone:
            with suppress(LeaseLost):
                queue.redo(lease)
        except stages.Busy:
            with suppress(LeaseLost):
                queue.release(lease, _BUSY_SECONDS)
        except SystemExit:  # for a question that failed on the way, which is no fault of this task's
            with suppress(LeaseLost, RedisError):
                queue.release(lease)
            raise
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
            begun = self._take_ahead(lease)
            return stages.score(workspace, record, lease.shard, self._references, beater, begun, self._look_ahead)
        else:
            with beater.blocking():
                stages.select(workspace, record)
            self.jobs.refresh(lease.job)
        return stages.Counts()

    def _retry(self, lease: Lease, error: str) -> None:
        if lease.attempts >= lease.limit:
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
    detail = f"{lease.task.replace(':', ' ')} was tried {lease.limit} times; the last time: {error}"
    return Problem(title="The job cannot go on", status=status, detail=detail)


def run(settings: Settings, name: str | None = None) -> None:
    """`winnow worker`: works until SIGTERM or SIGINT. Raises InputError for settings that are wrong."""
    if settings.redis is None:
        raise InputError("a worker needs the Redis of its service: give --redis URL")
    try:
        redis = connect(settings.redis)
    except ValueError as error:
        raise InputError(f"--redis {without_password(settings.redis)}: {error}") from None
    workspace = Workspace(settings.workspace)
    worker = Worker(
        Jobs(workspace, redis, settings.lease_seconds),
        References(workspace, settings.device),
        tuple(stage for resource in settings.resources for stage in _STAGES[resource]),
        name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
        Path(settings.alive_file) if settings.alive_file is not None else None,
    )
    worker.listen()
    worker.run()


def main(name: str) -> None:
    """A worker that `winnow serve` starts: its settings are in the environment."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    os.nice(_NICE)
    run(Settings(), name)
