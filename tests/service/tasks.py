"""Tasks for tests of the queue: jobs with one node of some parts, claims, and a clock that tests move."""

import pytest

from service.contract.names import RESOURCES, Resource
from service.queue.leases import Queue
from service.queue.tasks import JobState, Lease, LeaseLost, NodeTasks, TaskQueue

HOUR = 3_600_000  # ms


def start(queue: TaskQueue, job: str, parts: int, resource: Resource = "gpu", priority: int = 0) -> None:
    """Makes a job known and submits a node `work` of some parts."""
    queue.add(job, 1, ["all"], "{}", priority=priority)
    assert queue.submit(job, NodeTasks("work", resource, [range(parts)]))


def claim(queue: TaskQueue, worker: str = "w", *resources: Resource) -> Lease:
    """A lease on a task of these resources, or of all; there must be one."""
    lease = queue.claim(worker, resources or RESOURCES)
    assert lease is not None
    return lease


def idle(queue: TaskQueue) -> bool:
    """Whether nothing is claimable."""
    return queue.claim("idle", RESOURCES) is None


def refuse_all(queue: TaskQueue, lease: Lease) -> None:
    """Asserts that no verb takes a lease that is over."""
    with pytest.raises(LeaseLost):
        queue.beat(lease, 0, "")
    with pytest.raises(LeaseLost):
        queue.done(lease)
    with pytest.raises(LeaseLost):
        queue.fail(lease, "too late")
    with pytest.raises(LeaseLost):
        queue.release(lease)


def state(queue: TaskQueue, job: str) -> JobState:
    found = queue.state(job)
    assert found is not None
    return found


def counter(queue: TaskQueue, job: str, name: str, node: str = "work") -> int:
    return state(queue, job).counters.get(node, {}).get(name, 0)


def pass_time(queue: Queue, milliseconds: int) -> None:
    """Moves the clock that the queue reads: up to a minute as time passing, further as a clock that was set."""
    queue.redis.hincrby(f"{queue.prefix}clock", "ahead", milliseconds)
