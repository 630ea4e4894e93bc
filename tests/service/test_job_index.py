"""The index of jobs in Redis: labels, pages, and what is left of a forgotten job."""

import pytest

from service.queue.leases import Queue
from service.queue.tasks import NodeTasks
from tests.service.tasks import claim, start, state


def never(_summary: str) -> bool:
    return False


def walk(queue: Queue, label: str, limit: int) -> list[str]:
    """All pages of a label, one after the other."""
    seen: list[str] = []
    cursor = None
    while True:
        ids, cursor = queue.page(label, limit, cursor)
        assert 0 < len(ids) <= limit
        seen += ids
        if cursor is None:
            return seen


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_list_the_jobs_of_a_label_newest_first(queue: Queue, limit: int) -> None:
    for number in range(7):
        queue.add(f"job{number}", number // 3, ["all"], "{}")  # up to three in one microsecond
        queue.add(f"other{number}", number, ["other"], "{}")
    assert walk(queue, "all", limit) == ["job6", "job5", "job4", "job3", "job2", "job1", "job0"]


def test_a_page_goes_on_where_the_last_one_ended_while_jobs_come_and_go(queue: Queue) -> None:
    for number in range(6):
        queue.add(f"job{number}", 5, ["all"], "{}")
    first, cursor = queue.page("all", 2, None)
    queue.forget(first[1])  # the cursor's own job
    queue.add("new", 9, ["all"], "{}")
    second, cursor = queue.page("all", 2, cursor)
    assert (first, second) == (["job5", "job4"], ["job3", "job2"])
    assert queue.page("all", 2, cursor) == (["job1", "job0"], None)


def test_a_label_without_jobs_has_one_empty_page(queue: Queue) -> None:
    assert queue.page("all", 5, None) == ([], None)


@pytest.mark.parametrize("cursor", ["", "nonsense", "-", "x-job", "1.5-job"])
def test_a_cursor_that_no_page_gave_is_an_error(queue: Queue, cursor: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        queue.page("all", 5, cursor)


def test_the_end_of_a_job_moves_it_to_other_labels(queue: Queue) -> None:
    for number, job in enumerate("abc"):
        queue.add(job, number, ["all", "open"], "{}")
    queue.end("b", ["all", "failed"], "{}", closed=True)
    assert queue.labelled("open") == ["a", "c"]
    assert queue.labelled("failed") == ["b"]
    assert (queue.count("all"), queue.count("open"), queue.count("failed")) == (3, 2, 1)
    assert queue.page("all", 5, None) == (["c", "b", "a"], None)


def test_a_closed_job_keeps_its_labels(queue: Queue) -> None:
    queue.add("a", 1, ["open"], "{}")
    queue.end("a", ["cancelled"], "first", closed=True)
    queue.end("a", ["succeeded"], "second", closed=False)  # by a worker that was late
    assert (queue.count("cancelled"), queue.count("succeeded")) == (1, 0)


def test_an_owner_is_kept_and_a_job_without_one_is_told_from_an_unknown_one(queue: Queue) -> None:
    queue.add("a", 1, [], "{}", owner="ann")
    queue.add("b", 1, [], "{}")
    assert [queue.owner(job) for job in ("a", "b", "c")] == ["ann", "", None]


def test_states_of_several_jobs_come_in_their_order(queue: Queue) -> None:
    for number, job in enumerate("abc"):
        queue.add(job, number, [], job)
    states = queue.states(["c", "unknown", "a"], never)
    assert [found and found.summary for found in states] == ["c", None, "a"]
    assert queue.states([], never) == []


def test_states_of_several_jobs_leave_out_the_tasks_of_those_that_rest(queue: Queue) -> None:
    start(queue, "a", 2)
    start(queue, "b", 2)
    working, resting = queue.states(["a", "b"], never), queue.states(["a", "b"], bool)
    assert working == [state(queue, "a"), state(queue, "b")]
    assert all(found is not None and found.counters == {} for found in resting)


def test_the_first_claim_starts_a_job(queue: Queue) -> None:
    start(queue, "a", 2)
    assert state(queue, "a").started_at is None
    lease = claim(queue)
    started = state(queue, "a").started_at
    assert started is not None
    queue.done(lease)
    claim(queue)
    assert state(queue, "a").started_at == started


def test_a_forgotten_job_leaves_no_key(queue: Queue) -> None:
    queue.add("job", 1, ["all", "owner:ann:open"], "{}", owner="ann")
    queue.submit("job", NodeTasks("work", "gpu", [range(3)]))
    queue.submit("job", NodeTasks("other", "light", [range(3)]))
    queue.beat(claim(queue), 1, "note")
    queue.forget("job")
    keys = {key.removeprefix(queue.prefix) for key in queue.redis.scan_iter(f"{queue.prefix}*")}
    assert keys == {"clock", "fence", "workers:gpu", "workers:light"}
