"""The queue on a real Redis: who gets which task, fencing, attempts, fairness, and that no job is left taskless."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from service.queue.leases import MAX_ATTEMPTS, MAX_ATTEMPTS_IN_A_STORM, Lease, LeaseLost, Queue

ALL = ("advance", "select", "plan", "score", "train")
LAPSED = 0.0  # a lease that is over at once


def start(queue: Queue, job: str, shards: int, created_at: int = 1) -> None:
    queue.add(job, created_at, {})
    assert queue.submit(job, "score", shards, {})


def claim(queue: Queue, worker: str = "w", kinds: tuple[str, ...] = ALL) -> Lease:
    lease = queue.claim(worker, kinds)
    assert lease is not None
    return lease


def state(queue: Queue, job: str) -> Any:
    found = queue.state(job)
    assert found is not None
    return found


def test_tasks_come_in_order_and_each_once(queue: Queue) -> None:
    start(queue, "a", 12)
    leases = [claim(queue) for _ in range(12)]
    assert [lease.shard for lease in leases] == list(range(12))
    assert queue.claim("w", ALL) is None


def test_a_worker_gets_only_the_kinds_it_takes_and_in_their_order(queue: Queue) -> None:
    start(queue, "a", 1)
    queue.add("b", 2, {})
    queue.submit("b", "plan", 1, {})
    assert queue.claim("light", ("select",)) is None
    assert claim(queue, kinds=("plan", "score")).kind == "plan"
    assert claim(queue, kinds=("plan", "score")).kind == "score"


def test_a_wanted_task_comes_first_if_it_is_to_be_had(queue: Queue) -> None:
    start(queue, "a", 3)
    start(queue, "b", 3, created_at=2)
    wanted = queue.claim("w", ALL, ("b", "score:2"))
    assert wanted is not None
    assert (wanted.job, wanted.shard, wanted.attempts) == ("b", 2, 1)
    other = queue.claim("w", ALL, ("b", "score:2"))  # it is held now
    assert other is not None
    assert (other.job, other.shard) == ("a", 0)
    queue.add("c", 3, {})
    queue.submit("c", "select", 1, {})
    assert claim(queue).kind == "select"  # what is to be done before shards still is
    gone = queue.claim("w", ALL, ("none-such", "score:0"))
    assert gone is not None
    queue.done(wanted)
    assert state(queue, "b").shards_done == 1


def test_the_next_shard_is_what_a_claim_gives_and_differs_between_workers(queue: Queue) -> None:
    assert queue.next_shard("w") is None
    start(queue, "a", 3)
    queue.done(claim(queue, "w"))
    assert queue.next_shard("w") == ("a", "score:1")
    assert queue.next_shard("w") == ("a", "score:1")  # nobody has it
    assert claim(queue, "v").shard == 1
    assert queue.next_shard("v") == queue.next_shard("w") == ("a", "score:2")
    assert claim(queue, "v").shard == 2
    start(queue, "b", 4, created_at=2)
    assert {queue.next_shard("v"), queue.next_shard("w")} == {("b", "score:0"), ("b", "score:1")}


def test_a_lapsed_lease_is_claimable_and_its_late_holder_is_refused(make_queue: Callable[..., Queue]) -> None:
    queue, lapsing = make_queue(), make_queue(LAPSED)
    start(queue, "a", 1)
    late = claim(lapsing, "late")
    again = claim(queue, "next")
    assert (again.task, again.attempts) == (late.task, 2)
    assert "late" in again.error
    for verb in (queue.beat, queue.done, queue.release):
        with pytest.raises(LeaseLost):
            verb(late)
    with pytest.raises(LeaseLost):
        queue.fail(late, "too late")
    queue.done(again)
    assert state(queue, "a").shards_done == 1
    assert (queue.stats().leases_lost, queue.stats().leases_refused) == (1, 4)


def test_a_lease_lives_as_long_as_it_is_beaten(make_queue: Callable[..., Queue]) -> None:
    start(make_queue(), "a", 1)
    lease = claim(make_queue(LAPSED))
    make_queue().beat(lease)
    assert make_queue().claim("other", ALL) is None


def test_what_a_dead_worker_held_comes_before_what_is_new(make_queue: Callable[..., Queue]) -> None:
    start(make_queue(), "a", 9)
    claim(make_queue())
    failed, lapsed = claim(make_queue()), claim(make_queue(LAPSED))
    assert claim(make_queue()).task == lapsed.task
    make_queue().fail(failed, "once")
    assert claim(make_queue()).task == failed.task
    assert claim(make_queue()).shard == 3


def test_a_lapsed_lease_that_nobody_took_goes_on(make_queue: Callable[..., Queue]) -> None:
    start(make_queue(), "a", 1)
    lease = claim(make_queue(LAPSED))
    make_queue().beat(lease)
    make_queue().done(lease)


def test_done_twice_counts_once(queue: Queue) -> None:
    start(queue, "a", 2)
    lease = claim(queue)
    queue.done(lease, documents=5, tokens=50, rejects=1)
    with pytest.raises(LeaseLost):
        queue.done(lease, documents=5, tokens=50, rejects=1)
    now = state(queue, "a")
    assert (now.shards_done, now.documents_done, now.tokens_done, now.rejects) == (1, 5, 50, 1)


def test_progress_counts_what_is_in_flight_until_it_is_lost(queue: Queue) -> None:
    start(queue, "a", 2)
    queue.done(claim(queue), documents=10, tokens=100)
    lease = claim(queue)
    queue.beat(lease, documents=3, tokens=30)
    assert (state(queue, "a").documents_done, state(queue, "a").tokens_done) == (13, 130)
    assert state(queue, "a").tokens_per_second > 0
    queue.release(lease)
    assert (state(queue, "a").documents_done, state(queue, "a").tokens_done) == (10, 100)


def test_failures_count_as_attempts_and_releases_do_not(queue: Queue) -> None:
    start(queue, "a", 1)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        lease = claim(queue)
        assert lease.attempts == attempt
        queue.release(lease)
        lease = claim(queue)
        assert lease.attempts == attempt
        queue.fail(lease, f"error {attempt}")
    last = claim(queue)
    assert (last.attempts, last.error) == (MAX_ATTEMPTS + 1, f"error {MAX_ATTEMPTS}")


def test_a_task_has_more_attempts_where_workers_die_at_others_too(queue: Queue) -> None:
    start(queue, "a", 3)
    for attempt in range(1, 4):
        lease = claim(queue, "unlucky")
        assert (lease.shard, lease.attempts, lease.limit) == (0, attempt, MAX_ATTEMPTS)
        queue.reclaim("unlucky")
    kept = claim(queue, "lucky")
    for attempt in range(1, 9):
        other = claim(queue, "unlucky")
        assert (other.shard, other.attempts, other.limit == MAX_ATTEMPTS) == (1, attempt, attempt > 3)
        queue.reclaim("unlucky")
    queue.release(kept)
    assert claim(queue).limit == MAX_ATTEMPTS_IN_A_STORM


def test_a_failed_task_waits_before_it_is_claimable(queue: Queue) -> None:
    start(queue, "a", 1)
    queue.fail(claim(queue), "later", delay_seconds=60)
    assert queue.claim("w", ALL) is None
    assert queue.stats().leased["gpu"] == 1


def test_a_dead_workers_tasks_come_back_at_once(queue: Queue) -> None:
    start(queue, "a", 3)
    start(queue, "b", 1)
    held = [claim(queue, "dead"), claim(queue, "dead"), claim(queue, "alive")]
    assert queue.holders() == {"dead", "alive"}
    assert queue.reclaim("dead") == queue.stats().leases_lost == 2
    assert queue.holders() == {"alive"}
    again = [claim(queue, "alive"), claim(queue, "alive")]
    assert {(x.job, x.task) for x in again} == {(x.job, x.task) for x in held[:2]}
    assert all(lease.attempts == 2 and "dead" in lease.error for lease in again)
    queue.done(held[2])
    with pytest.raises(LeaseLost):
        queue.done(held[0])


def test_a_small_job_does_not_wait_behind_a_huge_one(queue: Queue) -> None:
    start(queue, "huge", 100)
    for _ in range(20):
        queue.done(claim(queue))
    start(queue, "small", 3)
    served = [claim(queue).job for _ in range(6)]
    assert Counter(served) == {"huge": 3, "small": 3}


def test_a_new_job_does_not_starve_the_old_ones(queue: Queue) -> None:
    start(queue, "old", 100)
    for _ in range(50):
        queue.done(claim(queue))
    start(queue, "new", 100)
    served = Counter(claim(queue).job for _ in range(20))
    assert served == {"old": 10, "new": 10}


def test_finishing_the_last_task_leaves_the_job_to_be_advanced(queue: Queue) -> None:
    start(queue, "a", 2)
    first, second = claim(queue), claim(queue)
    queue.done(first)
    assert queue.claim("w", ("advance",)) is None
    queue.done(second)
    advance = claim(queue, kinds=("advance",))
    queue.submit("a", "select", 1, {})
    queue.done(advance)
    assert claim(queue).kind == "select"


def test_submitting_again_changes_nothing(queue: Queue) -> None:
    start(queue, "a", 3)
    queue.done(claim(queue), documents=1)
    held = claim(queue)
    assert not queue.submit("a", "score", 3, {})
    assert not queue.submit("a", "plan", 1, {})
    queue.add("a", 99, {"other": True})
    assert state(queue, "a").shards_done == 1
    assert state(queue, "a").view == {}
    queue.done(held)


def test_a_job_that_ended_gives_out_no_more_tasks(queue: Queue) -> None:
    start(queue, "a", 3)
    lease = claim(queue)
    queue.end("a", "cancelled", {"n": 1})
    with pytest.raises(LeaseLost):
        queue.beat(lease)
    assert not queue.submit("a", "score", 3, {})
    assert queue.claim("w", ALL) is None
    queue.end("a", "failed", {"n": 2})
    assert (state(queue, "a").status, state(queue, "a").view) == ("cancelled", {"n": 2})
    assert queue.stats().jobs["cancelled"] == 1


def test_a_succeeded_job_can_still_select(queue: Queue) -> None:
    start(queue, "a", 1)
    queue.end("a", "succeeded", {})
    assert queue.submit("a", "select", 1, {})
    assert claim(queue).kind == "select"
    assert state(queue, "a").status == "succeeded"


def test_statuses_follow_the_stages(queue: Queue) -> None:
    seen = []
    queue.add("a", 1, {})
    for kind in ("plan", "train", "score", "select"):
        queue.submit("a", kind, 1, {})
        seen.append(state(queue, "a").status)
        lease = claim(queue, kinds=(kind,))
        seen.append(state(queue, "a").status)
        queue.done(lease)
        queue.done(claim(queue, kinds=("advance",)))
    queue.end("a", "succeeded", {})
    seen.append(state(queue, "a").status)
    order = ["queued", "planning", "training", "scoring", "selecting", "succeeded"]
    assert [s for s, before in zip(seen, [None, *seen], strict=False) if s != before] == order


def test_pages_walk_all_jobs_newest_first(queue: Queue) -> None:
    for number in range(7):
        queue.add(f"job{number}", number // 2, {})  # pairs are of one microsecond
    queue.end("job3", "failed", {})
    seen: list[str] = []
    cursor = None
    while True:
        ids, cursor = queue.page(2, cursor, None)
        seen += ids
        if cursor is None:
            break
    assert seen == [f"job{n}" for n in (6, 5, 4, 3, 2, 1, 0)]
    assert queue.page(5, None, "failed") == (["job3"], None)
    with pytest.raises(ValueError, match="invalid literal"):
        queue.page(5, "nonsense", None)


def test_a_forgotten_job_leaves_nothing(queue: Queue, redis: Any) -> None:
    start(queue, "a", 3)
    queue.beat(claim(queue), 1, 1)
    queue.forget("a")
    assert queue.state("a") is None
    assert queue.page(5, None, None) == ([], None)
    assert not [key for key in redis.scan_iter(f"{queue.prefix}*") if ":a" in key.removeprefix(queue.prefix)]


def test_a_lost_database_is_noticed(queue: Queue, redis: Any) -> None:
    epoch = queue.epoch()
    assert epoch is not None
    queue.reconciled(epoch)
    assert queue.epoch() is None
    redis.delete(f"{queue.prefix}epoch")
    assert queue.epoch() == epoch


def test_many_workers_finish_every_task_once(queue: Queue) -> None:
    for job in ("a", "b", "c"):
        start(queue, job, 40)
    finished: list[tuple[str, str]] = []

    def work(name: str) -> None:
        while (lease := queue.claim(name, ["gpu"])) is not None:
            if lease.attempts == 1 and lease.shard % 7 == 0:
                queue.fail(lease, "once")
                continue
            queue.done(lease, documents=1, tokens=10)
            finished.append((lease.job, lease.task))

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finished) == len(set(finished)) == 120
    assert all(state(queue, job).tokens_done == 400 for job in ("a", "b", "c"))
    assert queue.stats().tokens_scored == 1200
