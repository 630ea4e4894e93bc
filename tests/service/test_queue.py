"""What a worker and the life of a job rely on, of the queue in Redis and of the one in a process alike."""

import pytest

from service.contract.names import RESOURCES
from service.queue.local import LocalQueue
from service.queue.tasks import Done, LeaseLost, NodeTasks, TaskQueue, ranges
from tests.service.tasks import claim, counter, idle, refuse_all, start, state


@pytest.fixture(params=["redis", "local"])
def tasks(request: pytest.FixtureRequest) -> TaskQueue:
    found: TaskQueue = request.getfixturevalue("queue") if request.param == "redis" else LocalQueue()
    return found


# -- order
def test_each_part_is_claimed_once_and_in_order(tasks: TaskQueue) -> None:
    start(tasks, "a", 12)
    leases = [claim(tasks) for _ in range(12)]
    assert [lease.part for lease in leases] == list(range(12))
    assert {(lease.job, lease.node, lease.resource, lease.attempts, lease.error) for lease in leases} == {
        ("a", "work", "gpu", 1, "")
    }
    assert len({lease.fence for lease in leases}) == 12
    assert idle(tasks)


def test_only_the_missing_parts_are_given_out(tasks: TaskQueue) -> None:
    tasks.add("a", 1, [], "{}")
    missing = [2, 3, 4, 10, 12, 13, *range(100, 5_000, 2), 200_000]  # more ranges than one call in Redis takes
    tasks.submit("a", NodeTasks("work", "gpu", ranges(missing)))
    assert [claim(tasks).part for _ in missing] == missing
    assert idle(tasks)


def test_the_tasks_that_were_added_first_are_claimed_first(tasks: TaskQueue) -> None:
    start(tasks, "a", 4)
    begun = [claim(tasks).task for _ in range(2)]
    tasks.submit("a", NodeTasks("later", "gpu", [range(3)]))
    begun += [claim(tasks).task for _ in range(5)]
    assert begun == [*(f"work:{part}" for part in range(4)), *(f"later:{part}" for part in range(3))]


def test_a_worker_gets_only_its_resources_in_the_order_that_it_gives(tasks: TaskQueue) -> None:
    start(tasks, "a", 2, "gpu")
    assert tasks.claim("w", ["light"]) is None
    tasks.submit("a", NodeTasks("plan", "light", [range(2)]))
    assert claim(tasks, "w", "light", "gpu").node == "plan"
    assert claim(tasks, "w", "gpu", "light").node == "work"
    assert claim(tasks, "w", "light").task == "plan:1"


# -- done and counters
def test_done_adds_to_the_counters_of_its_node_once(tasks: TaskQueue) -> None:
    tasks.add("a", 1, [], "{}")
    tasks.submit("a", NodeTasks("work", "gpu", [range(2, 4)], counters={"total": 4, "parts": 2, "tokens": 100}))
    first, second = claim(tasks), claim(tasks)
    tasks.done(first, Done(counters={"tokens": 50, "rejects": 1}))
    with pytest.raises(LeaseLost):
        tasks.done(first, Done(counters={"tokens": 50}))
    tasks.done(second, Done(counters={"tokens": 7}))
    assert {name: counter(tasks, "a", name) for name in ("total", "parts", "tokens", "rejects")} == {
        "total": 4,
        "parts": 4,
        "tokens": 157,
        "rejects": 1,
    }
    assert counter(tasks, "a", "started") > 0


def test_counters_of_nodes_are_apart(tasks: TaskQueue) -> None:
    start(tasks, "a", 1)
    tasks.submit("a", NodeTasks("selection/medium-0.5", "light", [range(1)]))
    tasks.done(claim(tasks, "w", "light"), Done(counters={"rows": 3}))
    assert counter(tasks, "a", "rows", "selection/medium-0.5") == 3
    assert counter(tasks, "a", "parts") == 0


def test_the_last_part_of_a_node_adds_the_follow_up_task_once(tasks: TaskQueue) -> None:
    start(tasks, "a", 3)
    leases = [claim(tasks) for _ in range(3)]
    for lease in leases[:2]:
        tasks.done(lease, Done(follow=("advance", "light")))
        assert tasks.claim("w", ["light"]) is None
    tasks.done(leases[2], Done(follow=("advance", "light")))
    advance = claim(tasks, "w", "light")
    assert advance.node == "advance"
    tasks.done(advance)
    assert idle(tasks)


def test_each_node_adds_its_follow_up_task_while_that_of_another_runs(tasks: TaskQueue) -> None:
    start(tasks, "a", 1)
    tasks.submit("a", NodeTasks("other", "gpu", [range(1)]))
    first, second = claim(tasks), claim(tasks)
    tasks.done(first, Done(follow=("advance", "light")))
    running = claim(tasks, "w", "light")  # it may have looked before `second` was done
    tasks.done(second, Done(follow=("advance", "light")))
    again = claim(tasks, "w", "light")
    assert (running.node, again.node) == ("advance", "advance")
    assert running.task != again.task
    for lease in (running, again):
        tasks.done(lease)
    assert idle(tasks)


def test_a_released_last_part_adds_no_follow_up_task(tasks: TaskQueue) -> None:
    start(tasks, "a", 1)
    tasks.release(claim(tasks))
    assert tasks.claim("w", ["light"]) is None


# -- giving tasks back
def test_a_released_task_comes_back_before_those_that_were_not_claimed(tasks: TaskQueue) -> None:
    start(tasks, "a", 3)
    lease = claim(tasks)
    tasks.release(lease)
    again = claim(tasks)
    assert (again.part, again.attempts) == (0, 1)
    assert again.fence > lease.fence
    with pytest.raises(LeaseLost):
        tasks.done(lease)
    tasks.done(again)
    assert claim(tasks).part == 1


def test_a_failed_task_comes_back(tasks: TaskQueue) -> None:
    start(tasks, "a", 1)
    tasks.fail(claim(tasks), "disk full")
    tasks.done(claim(tasks))
    assert counter(tasks, "a", "parts") == 1


def test_no_verb_takes_a_lease_that_was_given_back(tasks: TaskQueue) -> None:
    start(tasks, "a", 1)
    lease = claim(tasks)
    tasks.release(lease)
    refuse_all(tasks, lease)


# -- submitting
def test_a_node_with_tasks_takes_no_others(tasks: TaskQueue) -> None:
    start(tasks, "a", 2)
    assert not tasks.submit("a", NodeTasks("work", "gpu", [range(2)], counters={"parts": 9}), "other")
    assert (state(tasks, "a").summary, counter(tasks, "a", "parts")) == ("{}", 0)
    tasks.done(claim(tasks))
    held = claim(tasks)
    assert not tasks.submit("a", NodeTasks("work", "gpu", [range(2)]))
    tasks.done(held)
    assert tasks.submit("a", NodeTasks("work", "gpu", [range(2)]), "again")
    assert state(tasks, "a").summary == "again"
    assert claim(tasks).part == 0


def test_an_unknown_job_takes_no_tasks(tasks: TaskQueue) -> None:
    assert not tasks.submit("a", NodeTasks("work", "gpu", [range(1)]))
    assert tasks.state("a") is None
    assert idle(tasks)


def test_a_known_job_stays_as_it_is_when_it_is_added_again(tasks: TaskQueue) -> None:
    tasks.add("a", 5, ["all"], "first")
    tasks.add("a", 9, ["all"], "second")
    assert (state(tasks, "a").created, state(tasks, "a").summary) == (5, "first")


# -- the end of a job
def test_a_closed_job_loses_its_tasks_and_takes_no_others(tasks: TaskQueue) -> None:
    start(tasks, "a", 3)
    lease = claim(tasks)
    tasks.end("a", ["all", "cancelled"], "ended", closed=True)
    assert idle(tasks)
    refuse_all(tasks, lease)
    assert not tasks.submit("a", NodeTasks("work", "gpu", [range(3)]))
    assert state(tasks, "a").summary == "ended"
    assert not state(tasks, "a").leases


def test_a_job_that_ended_open_takes_further_tasks(tasks: TaskQueue) -> None:
    start(tasks, "a", 1)
    tasks.done(claim(tasks))
    tasks.end("a", ["all", "succeeded"], "ended", closed=False)
    assert tasks.submit("a", NodeTasks("selection", "light", [range(1)]), "more")
    tasks.done(claim(tasks))
    assert state(tasks, "a").summary == "more"


def test_the_end_of_one_job_leaves_the_others(tasks: TaskQueue) -> None:
    start(tasks, "a", 3)
    start(tasks, "b", 3)
    leases = [claim(tasks) for _ in range(6)]
    tasks.end("a", [], "", closed=True)
    for lease in leases:
        if lease.job == "b":
            tasks.done(lease)
    assert counter(tasks, "b", "parts") == 3


def test_a_forgotten_job_can_come_again(tasks: TaskQueue) -> None:
    start(tasks, "a", 3)
    lease = claim(tasks)
    tasks.end("a", [], "", closed=True)
    tasks.forget("a")
    assert tasks.state("a") is None
    assert idle(tasks)
    start(tasks, "a", 1)
    assert counter(tasks, "a", "started") == 0
    with pytest.raises(LeaseLost):
        tasks.done(lease)
    tasks.done(claim(tasks))
    assert counter(tasks, "a", "parts") == 1


def test_the_end_of_an_unknown_job_changes_nothing(tasks: TaskQueue) -> None:
    tasks.end("a", ["all"], "", closed=True)
    tasks.forget("a")
    assert tasks.state("a") is None


# -- readers
def test_readers_see_the_note_of_each_lease_until_it_is_given_back(tasks: TaskQueue) -> None:
    start(tasks, "a", 2)
    first, second = claim(tasks), claim(tasks)
    tasks.beat(first, 10, "3 documents")
    seen = {lease.task: lease for lease in state(tasks, "a").leases}
    assert {task: lease.note for task, lease in seen.items()} == {"work:0": "3 documents", "work:1": ""}
    assert {(lease.resource, lease.attempts) for lease in seen.values()} == {("gpu", 1)}
    assert all(lease.claimed_at <= lease.seen_at for lease in seen.values())
    tasks.release(first)
    tasks.done(second)
    assert not state(tasks, "a").leases


def test_no_other_job_is_served_where_there_is_none(tasks: TaskQueue) -> None:
    start(tasks, "a", 2)
    claim(tasks)
    assert tasks.claim("w", RESOURCES, other_than="a") is None


@pytest.mark.parametrize(
    ("parts", "found"),
    [([], []), ([0], [range(1)]), ([0, 1, 2], [range(3)]), ([0, 2, 3, 9], [range(1), range(2, 4), range(9, 10)])],
)
def test_ranges_hold_each_part_once(parts: list[int], found: list[range]) -> None:
    assert ranges(parts) == found
