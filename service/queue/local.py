"""The queue of one process: a TaskQueue in memory, for commands that need no server."""

import threading
import time
from collections import deque
from collections.abc import Sequence

from service.contract.names import RESOURCES, Resource
from service.queue.tasks import NO_RESULT, Done, HeldLease, JobState, Lease, LeaseLost, NodeTasks

_MOMENT_SECONDS = 0.1


class LocalQueue:
    """A TaskQueue for the workers of one process, in threads of their own, and one job at a time.

    Leases do not lapse and attempts are not counted: the workers raise their errors.
    """

    def __init__(self) -> None:
        self.lease_ms = 15_000
        self._changed = threading.Condition(threading.RLock())  # held by every method
        self._fence = 0
        self._summaries: dict[str, tuple[int, str]] = {}
        self._closed: set[str] = set()
        self._tasks: dict[Resource, deque[tuple[str, str, int]]] = {r: deque() for r in RESOURCES}  # job, node, part
        self._left: dict[tuple[str, str], int] = {}
        self._counters: dict[str, dict[str, dict[str, int]]] = {}
        self._held: dict[int, tuple[Lease, int, str]] = {}  # by fence: since when (ms), note

    def add(
        self, job: str, created: int, labels: Sequence[str], summary: str, owner: str | None = None, priority: int = 0
    ) -> None:
        """As TaskQueue."""
        with self._changed:
            self._summaries.setdefault(job, (created, summary))

    def submit(self, job: str, tasks: NodeTasks, summary: str = "{}") -> bool:
        """As TaskQueue."""
        with self._changed:
            if job not in self._summaries or job in self._closed or self._left.get((job, tasks.node)):
                return False
            self._summaries[job] = (self._summaries[job][0], summary)
            self._counters.setdefault(job, {}).setdefault(tasks.node, {}).update(tasks.counters)
            self._add_tasks(job, tasks.node, tasks.resource, [part for some in tasks.parts for part in some])
            self._changed.notify_all()
            return True

    def _add_tasks(self, job: str, node: str, resource: Resource, parts: Sequence[int]) -> None:
        self._left[job, node] = self._left.get((job, node), 0) + len(parts)
        self._tasks[resource].extend((job, node, part) for part in parts)

    def end(self, job: str, labels: Sequence[str], summary: str, *, closed: bool) -> None:
        """As TaskQueue."""
        with self._changed:
            if job not in self._summaries:
                return
            self._summaries[job] = (self._summaries[job][0], summary)
            if closed:
                self._closed.add(job)
                self._drop_tasks(job)

    def forget(self, job: str) -> None:
        """As TaskQueue."""
        with self._changed:
            self._drop_tasks(job)
            self._summaries.pop(job, None)
            self._counters.pop(job, None)
            self._closed.discard(job)

    def _drop_tasks(self, job: str) -> None:
        for resource, tasks in self._tasks.items():
            self._tasks[resource] = deque(task for task in tasks if task[0] != job)
        self._held = {fence: held for fence, held in self._held.items() if held[0].job != job}
        self._left = {(other, node): left for (other, node), left in self._left.items() if other != job}

    def claim(self, worker: str, resources: Sequence[Resource], other_than: str = "") -> Lease | None:
        """As TaskQueue; there is no other job."""
        with self._changed:
            for resource in resources:
                if self._tasks[resource] and not other_than:
                    job, node, part = self._tasks[resource].popleft()
                    self._fence += 1
                    lease = Lease(job, node, part, resource, self._fence, attempts=1, error="", deaths_elsewhere=0)
                    self._held[self._fence] = (lease, _now(), "")
                    self._counters.setdefault(job, {}).setdefault(node, {}).setdefault("started", _now())
                    return lease
            return None

    def wait(self, resources: Sequence[Resource], seconds: float) -> bool:
        """Waits, at most so long, until a task of these resources can be claimed. False: all tasks are done."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or any(self._tasks[resource] for resource in resources), seconds)
            return not self._idle

    @property
    def _idle(self) -> bool:
        return not self._held and not any(self._tasks.values())

    def beat(self, lease: Lease, worked_ms: float, note: str) -> None:
        """As TaskQueue."""
        with self._changed:
            held = self._held.get(lease.fence)
            if held is None:
                raise LeaseLost
            self._held[lease.fence] = (lease, held[1], note)

    def done(self, lease: Lease, result: Done = NO_RESULT) -> None:
        """As TaskQueue."""
        with self._changed:
            if self._held.pop(lease.fence, None) is None:
                raise LeaseLost
            counted = self._counters[lease.job][lease.node]
            for name, value in ({"parts": 1} | dict(result.counters)).items():
                counted[name] = counted.get(name, 0) + value
            self._left[lease.job, lease.node] -= 1
            if not self._left[lease.job, lease.node] and result.follow is not None:
                self._add_tasks(lease.job, *result.follow, [lease.fence])
            self._changed.notify_all()

    def fail(self, lease: Lease, error: str, delay_seconds: float = 0.0) -> None:
        """As TaskQueue, with no delay."""
        self.release(lease)

    def release(self, lease: Lease, delay_seconds: float = 0.0) -> None:
        """As TaskQueue; with a delay it waits a moment, and the task goes behind the others."""
        with self._changed:
            if self._held.pop(lease.fence, None) is None:
                raise LeaseLost
            tasks, task = self._tasks[lease.resource], (lease.job, lease.node, lease.part)
            if delay_seconds:
                self._changed.wait(min(delay_seconds, _MOMENT_SECONDS))
                tasks.append(task)
            else:
                tasks.appendleft(task)
            self._changed.notify_all()

    def state(self, job: str) -> JobState | None:
        """As TaskQueue."""
        with self._changed:
            if job not in self._summaries:
                return None
            created, summary = self._summaries[job]
            leases = [
                HeldLease("here", lease.task, lease.resource, 1, since, _now(), note)
                for lease, since, note in list(self._held.values())
            ]
            counters = {node: dict(counts) for node, counts in self._counters.get(job, {}).items()}
            return JobState(created, summary, created // 1000, _now(), counters, leases)


def _now() -> int:
    return time.time_ns() // 1_000_000
