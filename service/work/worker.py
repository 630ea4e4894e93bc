"""The worker: claims tasks and runs them until it is told to stop. `winnow prune` runs the same on a LocalQueue."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from redis import RedisError

from pruner.errors import InputError
from scorer.engine.model_loader import ModelLoader
from scorer.errors import BadReference
from service.contract.names import Resource
from service.contract.schemas import Problem
from service.jobs.graph import find_node
from service.jobs.lifecycle import ADVANCE, Lifecycle
from service.kinds import KINDS
from service.kinds.job_files import JobFiles
from service.kinds.node import Busy, Counts, InputsGone, Task
from service.kinds.pool_gpus import PoolGpus
from service.queue.tasks import Done, Lease, LeaseLost
from service.store.records import JobRecord
from service.work.heartbeat import Heartbeat, LeaseBeat, Stopping, TaskEnded

log = logging.getLogger("winnow.worker")
_AWAY_SECONDS = 5.0  # before a job is failed again whose workspace takes nothing now
_BUSY_SECONDS = 2.0  # before a reference that another worker trains is looked for again
_BETWEEN_SECONDS = 0.25  # between two looks at other jobs' tasks while a task runs
_SERVE_SECONDS = 600.0  # in which a score request, with the loading of its model, or a look at a job must end
_ASIDE_MAX = 2  # tasks that may be set aside at a time, each with its model in memory


class _Next(NamedTuple):
    """The task that was claimed ahead, whose reading may have begun."""

    lease: Lease
    held: ExitStack  # renews the lease
    prepared: Any


class Worker:
    """Runs tasks of some resource classes. `name` is unique among living workers.

    With `alone` it has a queue to itself: errors are raised, where a worker of a pool gives the task back or fails the
    job. `between` is called between two pieces of a task's work; `alive` is a file that it touches at every heartbeat;
    `gpus` are those of its host, which trainings may borrow.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        models: ModelLoader,
        resources: Sequence[Resource],
        name: str,
        *,
        alone: bool = False,
        between: Callable[[], None] = lambda: None,
        alive: Path | None = None,
        gpus: PoolGpus | None = None,
    ) -> None:
        self.stopping = False
        self.models = models
        self._lifecycle, self._queue = lifecycle, lifecycle.queue
        self._resources, self._name, self._alone = tuple(resources), name, alone
        self._between_tasks = between
        self._gpus = gpus
        self.heartbeat = Heartbeat(
            self._queue, lambda: models.known_device, lambda: self.stopping, self._between, alive
        )
        self._next: _Next | None = None
        self._aside = 0
        self._looked = float("-inf")

    def once(self) -> bool:
        """Runs a task, if there is one."""
        self._between_tasks()
        light = [resource for resource in self._resources if resource != "gpu"]
        lent = self._gpus is not None and not self._gpus.take()
        if lent:
            self.release_ahead()
        if self._next is not None:
            # Light tasks go first: they are short, and other jobs wait for them.
            lease = self._queue.claim(self._name, light) if light else None
            if lease is None:
                ahead, self._next = self._next, None
                ahead.held.close()
                self._work(ahead.lease, ahead.prepared)
                return True
        else:
            lease = self._queue.claim(self._name, light if lent else self._resources)
        if lease is None:
            if self._gpus is not None:
                self._gpus.give()
            return False
        self._work(lease)
        return True

    def release_ahead(self) -> None:
        """Gives back the task that was claimed ahead, if there is one."""
        ahead, self._next = self._next, None
        if ahead is not None:
            ahead.held.close()
            with suppress(LeaseLost, RedisError):
                self._queue.release(ahead.lease)
            if ahead.prepared is not None:
                ahead.prepared.close()

    # -- one task
    def _work(self, lease: Lease, prepared: Any = None) -> None:
        """Runs a task to its end; what goes wrong becomes a retry, or the end of its job."""
        try:
            if lease.attempts > lease.limit:
                self._give_up(lease, _broken(lease, lease.error))
            else:
                self._run(lease, prepared)
        except (LeaseLost, TaskEnded):
            log.info("%s of job %s: the lease is lost", lease.task, lease.job)
        except Stopping:
            with suppress(LeaseLost):
                self._queue.release(lease)
        except (InputsGone, FileNotFoundError) as error:
            if self._alone and not isinstance(error, InputsGone):
                raise
            log.info("%s of job %s: an input is gone: %s", lease.task, lease.job, error)
            with suppress(LeaseLost):
                if isinstance(error, InputsGone):
                    self._queue.done(lease, Done(follow=ADVANCE))
                else:
                    self._retry(lease, one_line(error))
        except Busy:
            with suppress(LeaseLost):
                self._queue.release(lease, _BUSY_SECONDS)
        except SystemExit:  # a score request failed meanwhile, which is no fault of this task
            with suppress(LeaseLost, RedisError):
                self._queue.release(lease)
            raise
        except (InputError, BadReference) as error:
            if self._alone:
                raise
            self._give_up(lease, Problem(title="The job cannot be done", status=422, detail=str(error)))
        except RedisError:
            raise
        except Exception as error:
            if self._alone:
                raise
            log.warning("%s of job %s, attempt %d", lease.task, lease.job, lease.attempts, exc_info=True)
            self._retry(lease, one_line(error))
            if self.models.on_gpu:
                raise SystemExit(1) from error  # a CUDA error stays with its process; a new one starts clean

    def _run(self, lease: Lease, prepared: Any) -> None:
        record = self._lifecycle.workspace.job(lease.job)
        if record is None:
            if prepared is not None:
                prepared.close()
            self._queue.forget(lease.job)
            return
        follow, counts = None, Counts()
        with self.heartbeat.hold(lease) as beat:
            if lease.node == ADVANCE[0]:
                with beat.allow(_SERVE_SECONDS):
                    self._lifecycle.advance(lease.job)
            else:
                task = self._task(lease, record, beat, prepared)
                follow = ADVANCE
                counts = Counts() if task is None else KINDS[task.node.kind].run(task)
        worked = beat.book()
        timed = {"worker_ms": beat.worked_ms} | ({"gpu_ms": beat.worked_ms} if self.models.on_gpu else {})
        totals = lease.node.partition("/")[0] if counts.fresh else ""
        shards = {"shards": 1} if counts.counters else {}
        self._queue.done(lease, Done(worked, follow, {**counts.counters, **shards, **timed}, totals))

    def _task(self, lease: Lease, record: JobRecord, beat: LeaseBeat, prepared: Any) -> Task | None:
        """What a lease stands for; None if the job has no such part any more."""
        job = JobFiles(self._lifecycle.workspace, record)
        node = find_node(job, lease.node)
        if node is None or lease.part >= len(node.paths):
            return None
        return Task(job, node, lease.part, beat, self.models, self._look_ahead, prepared, self._gpus)

    # -- between two pieces of a task
    def _between(self, beat: LeaseBeat, moved: bool) -> None:
        """Serves others while a task runs: score requests, and tasks of jobs that were served less."""
        if time.monotonic() - self._looked < _BETWEEN_SECONDS:
            return
        if self._alone or moved:  # else it is in the middle of a batch
            with beat.allow(_SERVE_SECONDS):
                self._between_tasks()
        if moved and not self._alone and self._aside < _ASIDE_MAX:
            self._serve_others(beat)
        self._looked = time.monotonic()

    def _serve_others(self, beat: LeaseBeat) -> None:
        """Sets the task aside, its state kept in memory, while jobs that were served less have tasks."""
        lease = None
        with suppress(RedisError):
            lease = self._queue.claim(self._name, self._resources, other_than=beat.lease.job)
        if lease is None:
            return
        self._aside += 1
        try:
            with beat.aside():
                while lease is not None and not self.stopping:
                    self._work(lease)
                    lease = self._queue.claim(self._name, self._resources, other_than=beat.lease.job)
                if lease is not None:
                    with suppress(LeaseLost):
                        self._queue.release(lease)
        except RedisError as error:  # the task that was set aside goes on
            log.warning("tasks of other jobs wait for Redis: %s", error)
        finally:
            self._aside -= 1

    def _look_ahead(self) -> None:
        """Claims the next task while the last batches of this one run, and begins to read it."""
        if self._next is not None or self._aside or self.stopping:
            return
        try:
            lease = self._queue.claim(self._name, ["gpu"])
        except RedisError:
            return
        if lease is None:
            return
        held, prepared = ExitStack(), None
        beat = held.enter_context(self.heartbeat.hold(lease))
        held.enter_context(beat.aside())
        try:
            record = self._lifecycle.workspace.job(lease.job)
            task = None if record is None else self._task(lease, record, beat, None)
            prepare = None if task is None else getattr(KINDS[task.node.kind], "prepare", None)
            prepared = prepare(task) if prepare is not None and lease.attempts <= lease.limit else None
        except Exception as error:  # it is met again when the task runs
            log.info("nothing is read ahead: %s", error)
        self._next = _Next(lease, held, prepared)

    # -- failures
    def _retry(self, lease: Lease, error: str) -> None:
        if lease.attempts >= lease.limit:
            self._give_up(lease, _broken(lease, error))
            return
        with suppress(LeaseLost):
            self._queue.fail(lease, error, delay_seconds=0.25 * 2**lease.attempts)

    def _give_up(self, lease: Lease, problem: Problem) -> None:
        log.warning("job %s: %s failed: %s", lease.job, lease.task, problem.detail)
        with suppress(LeaseLost):
            try:
                self._queue.beat(lease, 0.0, "")
                if self._lifecycle.end(lease.job, "failed", problem) == "succeeded":  # before; its other tasks stay
                    dropped = self._lifecycle.drop(lease.job, lease.node, problem)
                    self._queue.done(lease, Done(follow=ADVANCE if dropped else None))
            except (OSError, InputError):  # the workspace takes nothing now, or the job's file is damaged: again later
                self._queue.fail(lease, "", delay_seconds=_AWAY_SECONDS)


def one_line(error: Exception) -> str:
    """The type and the text of an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _broken(lease: Lease, error: str) -> Problem:
    status = 507 if "No space left" in error else 500
    detail = f"{lease.task.replace(':', ' ')} was tried {lease.limit} times; the last time: {error}"
    return Problem(title="The job cannot go on", status=status, detail=detail)
