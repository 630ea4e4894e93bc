"""What a queue holds and does: leases on opaque tasks, kept in Redis (leases.py) or in one process (local.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.contract.names import Resource

MAX_ATTEMPTS = 5  # of a task that ends in an error or with a dead worker
MAX_ATTEMPTS_IN_A_STORM = 20  # while workers die as often at the job's other tasks: it may not be this task's fault


class LeaseLost(Exception):
    """The task is no longer this worker's: the lease lapsed and was taken, or the job takes no tasks any more."""


@dataclass(frozen=True)
class NodeTasks:
    """The tasks of a node of a job: some of its parts. `counters` are those of the node to start from."""

    node: str
    resource: Resource
    parts: Sequence[range]
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """What a finished task adds: to its node's counters, and to those of all jobs under the prefix `totals`.

    After the node's last task, a task of the node `follow` is added. `worked_ms`: time since the last heartbeat.
    """

    worked_ms: float = 0.0
    follow: tuple[str, Resource] | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    totals: str = ""


NO_RESULT = Done()


@dataclass(frozen=True)
class Lease:
    """A task that a worker holds until its lease lapses."""

    job: str
    node: str
    part: int
    resource: Resource
    fence: int
    attempts: int  # claims so far, this one included; released ones do not count
    error: str  # why the attempt before failed, or ""
    deaths_elsewhere: int  # of workers at other tasks of the job

    @property
    def task(self) -> str:
        """`<node>:<part>`."""
        return f"{self.node}:{self.part}"

    @property
    def limit(self) -> int:
        """How many attempts the task has before its job fails."""
        return MAX_ATTEMPTS_IN_A_STORM if self.deaths_elsewhere >= self.attempts else MAX_ATTEMPTS


@dataclass(frozen=True)
class HeldLease:
    """A lease as readers of a job see it. Times are milliseconds since 1970."""

    worker: str
    task: str
    resource: Resource
    attempts: int
    claimed_at: int
    seen_at: int  # last heartbeat
    note: str  # what the worker said with its last heartbeat


@dataclass(frozen=True)
class JobState:
    """What a queue knows of a job. Times are milliseconds since 1970."""

    created: int  # microseconds since 1970
    summary: str  # as it was given last
    started_at: int | None = None  # first claim
    updated_at: int | None = None
    counters: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # by node
    leases: Sequence[HeldLease] = ()
    failed: Sequence[str] = ()  # the errors of tasks that wait for another attempt
    waiting: Sequence[Resource] = ()  # resources of which tasks were never claimed
    workers: Mapping[Resource, int] = field(default_factory=dict)  # live ones, of all jobs


class TaskQueue(Protocol):
    """The verbs that the life of a job and a worker need."""

    lease_ms: int

    def add(
        self, job: str, created: int, labels: Sequence[str], summary: str, owner: str | None = None, priority: int = 0
    ) -> None:
        """Makes a job known. Each step of `priority` doubles its share. Known jobs stay as they are."""

    def submit(self, job: str, tasks: NodeTasks, summary: str = "{}") -> bool:
        """Adds the tasks of a node, at least one.

        Returns False, and adds none, if the node has tasks, or the job is unknown or closed.
        """

    def end(self, job: str, labels: Sequence[str], summary: str, *, closed: bool) -> None:
        """Changes a job's labels and summary, if it is known. A `closed` one loses its tasks and takes no others."""

    def forget(self, job: str) -> None:
        """Drops all that is known of a job."""

    def claim(self, worker: str, resources: Sequence[Resource], other_than: str = "") -> Lease | None:
        """A lease on a task of the least-served job, resources in the order given.

        With `other_than`, only jobs that were served less than that job are looked at.
        """

    def beat(self, lease: Lease, worked_ms: float, note: str) -> None:
        """Renews a lease. `worked_ms`: time spent on it since the last call. Raises LeaseLost."""

    def done(self, lease: Lease, result: Done = NO_RESULT) -> None:
        """Finishes a task. Raises LeaseLost."""

    def fail(self, lease: Lease, error: str, delay_seconds: float = 0.0) -> None:
        """Gives a task back after an error, claimable after the delay. Raises LeaseLost."""

    def release(self, lease: Lease, delay_seconds: float = 0.0) -> None:
        """Gives a task back as if it had not been claimed. Raises LeaseLost."""

    def state(self, job: str) -> JobState | None:
        """What is known of a job."""


def ranges(parts: Sequence[int]) -> list[range]:
    """Ascending part numbers as ranges."""
    found: list[range] = []
    for part in parts:
        if found and found[-1].stop == part:
            found[-1] = range(found[-1].start, part + 1)
        else:
            found.append(range(part, part + 1))
    return found
