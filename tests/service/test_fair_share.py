"""Which job is served when there are more tasks than workers: shares of time, priorities, tasks that are set aside."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from service.contract.names import RESOURCES
from service.queue.leases import Queue
from service.queue.tasks import Done, NodeTasks
from tests.service.tasks import claim, idle, pass_time, start

MakeQueue = Callable[..., Queue]


def run(queue: Queue, workers: int, durations: dict[str, int], until: str) -> tuple[int, Counter[str]]:
    """Some workers run tasks of these durations (ms) until a job has no tasks left, on the queue's clock.

    Workers beat every 500 ms, as real ones do. Returns the time that passed, and the time that each job was given.
    """
    now, served, busy = 0, Counter[str](), dict[int, Any]()
    while queue.redis.zscore(f"{queue.prefix}active:gpu", until) is not None:
        for worker in range(workers):
            if worker not in busy and (lease := queue.claim(f"w{worker}", ["gpu"])) is not None:
                busy[worker] = (now + durations[lease.job], lease)
        step = min(min(end for end, _ in busy.values()) - now, 500)
        now += step
        pass_time(queue, step)
        for worker, (end, lease) in list(busy.items()):
            served[lease.job] += step
            if end <= now:
                queue.done(lease, Done(worked_ms=step))
                del busy[worker]
            else:
                queue.beat(lease, step, "")
    return now, served


def test_jobs_take_turns(queue: Queue) -> None:
    start(queue, "huge", 100)
    for _ in range(20):
        queue.done(claim(queue))
    start(queue, "small", 3)
    assert Counter(claim(queue).job for _ in range(6)) == {"huge": 3, "small": 3}


def test_a_new_job_is_served_as_one_that_has_run_for_long(queue: Queue) -> None:
    start(queue, "old", 100)
    for _ in range(50):
        queue.done(claim(queue), Done(worked_ms=1000))
    start(queue, "new", 100)
    served: Counter[str] = Counter()
    for _ in range(20):
        lease = claim(queue)
        served[lease.job] += 1
        queue.done(lease, Done(worked_ms=1000))
    assert served == {"old": 10, "new": 10}


@pytest.mark.parametrize("workers", [1, 4])
def test_a_small_job_behind_a_huge_one_takes_about_twice_its_time_alone(make_queue: MakeQueue, workers: int) -> None:
    queue = make_queue()
    durations = {"huge": 700, "small": 700, "alone": 700}
    start(queue, "alone", 20)
    alone, _ = run(queue, workers, durations, "alone")
    start(queue, "huge", 500)
    for _ in range(workers):
        claim(queue, "before")  # the huge job has been served for a while
    start(queue, "small", 20)
    together, _ = run(queue, workers, durations, "small")
    assert alone < together <= 2.2 * alone + 700


def test_shares_are_of_time_and_not_of_tasks(queue: Queue) -> None:
    start(queue, "long", 500)
    start(queue, "short", 100)
    _, served = run(queue, 2, {"long": 4000, "short": 400}, "short")
    assert 0.8 < served["long"] / served["short"] < 1.3


def test_each_step_of_priority_doubles_a_share(queue: Queue) -> None:
    start(queue, "normal", 1000)
    start(queue, "low", 1000, priority=-1)
    start(queue, "high", 120, priority=2)
    _, served = run(queue, 3, {"normal": 500, "low": 500, "high": 500}, "high")
    assert 3 < served["high"] / served["normal"] < 5
    assert 1.5 < served["normal"] / served["low"] < 3


def test_time_is_booked_by_heartbeats_and_by_the_end_of_a_task(queue: Queue) -> None:
    start(queue, "a", 4)
    leases = [claim(queue) for _ in range(4)]
    start(queue, "b", 1)
    begun = queue.redis.zscore(f"{queue.prefix}active:gpu", "b")
    queue.beat(leases[0], 100, "")
    queue.release(leases[1])
    queue.fail(leases[2], "x")
    queue.done(leases[3], Done(worked_ms=0.25))
    assert queue.redis.zscore(f"{queue.prefix}active:gpu", "a") == begun + 100.25


# -- tasks of other jobs, while a worker sets its own aside
def test_other_jobs_are_served_only_while_they_were_served_less(queue: Queue) -> None:
    start(queue, "big", 10)
    lease = claim(queue)
    queue.beat(lease, 1000, "")
    start(queue, "small", 3)
    queue.beat(lease, 1000, "")
    for _ in range(2):
        other = queue.claim("w", RESOURCES, other_than="big")
        assert other is not None
        assert other.job == "small"
        queue.done(other, Done(worked_ms=600))
    assert queue.claim("w", RESOURCES, other_than="big") is None
    queue.beat(lease, 1000, "")
    assert queue.claim("w", RESOURCES, other_than="big") is not None


def test_a_worker_that_sets_a_task_aside_gets_no_other_of_the_same_job(queue: Queue) -> None:
    start(queue, "a", 10)
    queue.submit("a", NodeTasks("light", "light", [range(3)]))
    lease = claim(queue, "w", "gpu")
    queue.beat(lease, 1000, "")
    assert queue.claim("w", RESOURCES, other_than="a") is None
    assert not idle(queue)
