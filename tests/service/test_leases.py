"""Leases in Redis: fencing, dead workers, attempts, clocks that are set, many workers at once, and lost data."""

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from service.contract.names import RESOURCES, Resource
from service.queue.leases import Queue, Rebuilding
from service.queue.tasks import MAX_ATTEMPTS, MAX_ATTEMPTS_IN_A_STORM, Done, LeaseLost, NodeTasks
from tests.service.pool import until
from tests.service.tasks import HOUR, claim, counter, idle, pass_time, refuse_all, start, state

LAPSED = 0.0  # seconds: a lease that has lapsed as soon as it is given
MakeQueue = Callable[..., Queue]


# -- fencing
def test_a_lapsed_lease_is_claimable_and_its_first_holder_is_refused(make_queue: MakeQueue) -> None:
    queue = make_queue()
    start(queue, "a", 1)
    late = claim(make_queue(LAPSED), "late")
    again = claim(queue, "next")
    assert (again.task, again.attempts) == (late.task, 2)
    assert "late died or hung" in again.error
    refuse_all(queue, late)
    queue.done(again)
    assert counter(queue, "a", "parts") == 1
    assert (queue.stats().totals["lost"], queue.stats().totals["refused"]) == (1, 4)


def test_nodes_that_are_dropped_take_their_leases_with_them(make_queue: MakeQueue) -> None:
    queue = make_queue()
    start(queue, "a", 1)
    queue.submit("a", NodeTasks("ablation/x/runs", "gpu", [range(3), range(5, 9)]))
    queue.submit("a", NodeTasks("ablation/y", "light", [range(1)]))
    kept, held, failed = (claim(queue, "w", "gpu") for _ in range(3))
    queue.fail(failed, "an error")
    queue.drop("a", "ablation/x")
    refuse_all(queue, held)
    assert claim(queue).task == "ablation/y:0"
    assert idle(queue)
    assert (queue.stats().pending["gpu"], queue.stats().leased["gpu"]) == (0, 1)
    assert state(queue, "a").waiting == []
    assert "ablation/x/runs" not in state(queue, "a").counters
    queue.done(kept)
    assert queue.submit("a", NodeTasks("ablation/x/runs", "gpu", [range(1)]))
    assert claim(queue, "w", "gpu").attempts == 1


def test_a_heartbeat_renews_a_lease(make_queue: MakeQueue) -> None:
    start(make_queue(), "a", 1)
    lease = claim(make_queue(LAPSED))
    make_queue().beat(lease, 0, "")
    assert idle(make_queue())


def test_a_lapsed_lease_that_was_not_taken_is_still_held(make_queue: MakeQueue) -> None:
    start(make_queue(), "a", 1)
    lease = claim(make_queue(LAPSED))
    make_queue().done(lease)
    assert idle(make_queue())


def test_tasks_of_dead_workers_come_before_those_that_were_not_claimed(make_queue: MakeQueue) -> None:
    start(make_queue(), "a", 9)
    claim(make_queue())
    failed, lapsed = claim(make_queue()), claim(make_queue(LAPSED))
    assert claim(make_queue()).task == lapsed.task
    make_queue().fail(failed, "once")
    assert claim(make_queue()).task == failed.task
    assert claim(make_queue()).part == 3


def test_fences_rise_when_the_data_was_lost(queue: Queue) -> None:
    start(queue, "a", 1)
    before = claim(queue)
    queue.redis.delete(*queue.redis.keys(f"{queue.prefix}*"))
    lost_at = queue.redis.time()
    until(lambda: queue.redis.time() >= (lost_at[0], lost_at[1] + 1000))
    start(queue, "a", 1)
    after = claim(queue)
    assert after.fence > before.fence
    refuse_all(queue, before)
    queue.done(after)


# -- attempts
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
    assert last.attempts > last.limit


def test_a_failed_task_waits_before_it_is_claimable(queue: Queue) -> None:
    start(queue, "a", 1)
    queue.fail(claim(queue), "disk full", delay_seconds=40)
    assert idle(queue)
    assert state(queue, "a").failed == ["disk full"]
    pass_time(queue, 39_000)
    assert idle(queue)
    pass_time(queue, 2_000)
    assert claim(queue).error == "disk full"
    assert state(queue, "a").failed == []


def test_an_error_that_names_a_file_of_undecodable_name_is_kept(queue: Queue) -> None:
    start(queue, "a", 1)
    queue.fail(claim(queue), b"cannot read \xff.parquet".decode("utf-8", "surrogateescape"))
    assert claim(queue).error == r"cannot read \udcff.parquet"


def test_a_task_has_more_attempts_while_workers_die_at_other_tasks_too(queue: Queue) -> None:
    start(queue, "a", 3)
    for attempt in range(1, 4):
        lease = claim(queue, "unlucky")
        assert (lease.part, lease.attempts, lease.limit) == (0, attempt, MAX_ATTEMPTS)
        queue.reclaim("unlucky")
    kept = claim(queue, "lucky")
    for attempt in range(1, 9):
        other = claim(queue, "unlucky")
        assert (other.part, other.attempts, other.limit == MAX_ATTEMPTS) == (1, attempt, attempt > 3)
        queue.reclaim("unlucky")
    queue.release(kept)
    again = {lease.part: lease for lease in (claim(queue), claim(queue))}
    assert again[0].limit == MAX_ATTEMPTS_IN_A_STORM


# -- workers
def test_the_tasks_of_a_dead_worker_come_back_at_once(queue: Queue) -> None:
    start(queue, "a", 3)
    start(queue, "b", 1)
    held = [claim(queue, "dead"), claim(queue, "dead"), claim(queue, "alive")]
    assert queue.holders() == {"dead", "alive"}
    assert queue.reclaim("dead") == queue.stats().totals["lost"] == 2
    assert queue.reclaim("dead") == 0
    assert queue.holders() == {"alive"}
    again = [claim(queue, "alive"), claim(queue, "alive")]
    assert {(x.job, x.task) for x in again} == {(x.job, x.task) for x in held[:2]}
    assert all(lease.attempts == 2 and "dead died" in lease.error for lease in again)
    queue.done(held[2])
    with pytest.raises(LeaseLost):
        queue.done(held[0])


def test_a_task_that_was_set_aside_is_not_blamed_for_the_death_of_its_worker(queue: Queue) -> None:
    start(queue, "a", 2)
    aside, at_work = claim(queue, "dead"), claim(queue, "dead")
    queue.beat(aside, 0, "")
    queue.beat(at_work, 500, "")
    assert queue.reclaim("dead") == queue.stats().totals["lost"] == 2
    again = {lease.part: lease for lease in (claim(queue), claim(queue))}
    assert (again[aside.part].attempts, again[aside.part].error) == (1, "")
    assert (again[at_work.part].attempts, again[at_work.part].error) == (2, "its worker dead died")


def test_a_worker_is_seen_at_all_its_resources_while_it_works_at_one(make_queue: MakeQueue) -> None:
    queue = make_queue(10)
    assert queue.claim("idle", ["light"]) is None
    start(queue, "a", 1, "light")
    start(queue, "b", 1, "gpu")
    lease = claim(queue, "busy", "light", "gpu")
    assert state(queue, "b").workers == {"light": 2, "gpu": 1}
    for _ in range(6):
        pass_time(queue, 5_000)
        queue.beat(lease, 5_000, "")
    assert lease.resource == "light"
    assert state(queue, "b").workers == {"light": 1, "gpu": 1}
    assert queue.stats().workers == 1
    queue.reclaim("busy")
    assert state(queue, "b").workers == {"light": 0, "gpu": 0}


def test_readers_see_which_resources_have_tasks_that_were_never_claimed(queue: Queue) -> None:
    start(queue, "a", 2, "gpu")
    queue.submit("a", NodeTasks("other", "light", [range(1)]))
    assert state(queue, "a").waiting == ["light", "gpu"]
    light = claim(queue, "w", "light")
    assert state(queue, "a").waiting == ["gpu"]
    queue.release(light)
    assert state(queue, "a").waiting == ["gpu"]
    queue.end("a", [], "", closed=True)
    assert state(queue, "a").waiting == []


def test_stats_count_tasks_by_resource(make_queue: MakeQueue) -> None:
    queue = make_queue()
    start(queue, "a", 10)
    queue.submit("a", NodeTasks("other", "light", [range(2), range(5, 6)]))
    held, done, paused = claim(queue, "w", "gpu"), claim(queue, "w", "gpu"), claim(queue, "w", "gpu")
    claim(make_queue(LAPSED), "dead", "light")
    queue.done(done, Done(counters={"tokens": 5}, totals="work"))
    queue.fail(paused, "x", delay_seconds=30)
    stats = queue.stats()
    assert (stats.pending, stats.leased) == ({"light": 3, "gpu": 7}, {"light": 0, "gpu": 2})
    assert stats.totals["work/tokens"] == 5
    queue.done(held, Done(counters={"tokens": 5}))
    assert queue.stats().totals["work/tokens"] == 5
    queue.end("a", [], "", closed=True)
    assert set(queue.stats().pending.values()) | set(queue.stats().leased.values()) == {0}


def test_many_workers_finish_every_task_once(queue: Queue) -> None:
    for job in ("a", "b", "c"):
        start(queue, job, 40)
    finished: list[tuple[str, str]] = []
    errors: list[Exception] = []
    over = threading.Event()

    def work(name: str) -> None:
        while (lease := queue.claim(name, RESOURCES)) is not None:
            try:
                if lease.attempts == 1 and lease.part % 7 == 0:
                    queue.fail(lease, "once")
                else:
                    follow: tuple[str, Resource] | None = ("advance", "light") if lease.node == "work" else None
                    queue.done(lease, Done(counters={"tokens": 10}, totals="all", follow=follow))
                    finished.append((lease.job, lease.task))
            except LeaseLost:  # the task was reclaimed
                pass

    def reclaim() -> None:  # gives back tasks of a worker that is alive
        try:
            while not over.is_set():
                queue.reclaim("w0")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    reclaimer = threading.Thread(target=reclaim)
    for thread in (*threads, reclaimer):
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    reclaimer.join()
    work("last")
    assert errors == []
    assert len(finished) == len(set(finished)) == 123
    for job in ("a", "b", "c"):
        assert (counter(queue, job, "parts"), counter(queue, job, "parts", "advance")) == (40, 1)
    assert queue.stats().totals["all/tokens"] == 1230


# -- a clock that is set
@pytest.mark.parametrize("leap", [HOUR, -HOUR])
def test_a_clock_that_is_set_moves_no_lease(make_queue: MakeQueue, leap: int) -> None:
    queue = make_queue(10)
    start(queue, "a", 2)
    held, other = claim(queue), claim(queue, "dead")
    pass_time(queue, leap)
    assert idle(queue)
    pass_time(queue, 6000)
    queue.beat(held, 0, "")
    pass_time(queue, 6000)
    again = claim(queue, "idle")
    assert again.task == other.task
    assert idle(queue)
    queue.done(held)
    with pytest.raises(LeaseLost):
        queue.done(other)


@pytest.mark.parametrize("leap", [HOUR, -HOUR])
def test_readers_see_times_of_the_clock_as_it_is_now(queue: Queue, leap: int) -> None:
    start(queue, "a", 1)
    lease = claim(queue)
    pass_time(queue, leap)
    queue.beat(lease, 0, "")
    seconds, micros = queue.redis.time()
    wall = seconds * 1000 + micros // 1000
    seen = state(queue, "a")
    assert wall - 10_000 < seen.leases[0].claimed_at <= seen.leases[0].seen_at <= wall
    assert seen.updated_at is not None
    assert wall - 10_000 < seen.updated_at <= wall


# -- lost data
def test_a_lost_database_is_noticed(queue: Queue) -> None:
    epoch = queue.epoch()
    assert epoch is not None
    queue.reconciled(epoch)
    assert queue.epoch() is None
    queue.redis.delete(f"{queue.prefix}epoch")
    assert queue.epoch() == epoch


def test_one_process_rebuilds_at_a_time(make_queue: MakeQueue) -> None:
    first, second = make_queue(), make_queue()
    first.rebuild()
    first.rebuild()
    with pytest.raises(Rebuilding):
        second.rebuild()
    first.reconciled("epoch")
    second.rebuild()


def test_a_rebuild_whose_process_died_is_taken_up(make_queue: MakeQueue, redis: Any) -> None:
    first, second = make_queue(), make_queue()
    first.rebuild()
    assert 0 < redis.pttl(f"{first.prefix}rebuilding") <= 10_000
    redis.delete(f"{first.prefix}rebuilding")  # as when that time has passed
    second.rebuild()
    with pytest.raises(Rebuilding):
        first.rebuild()


def test_workspaces_share_a_redis_and_no_tasks(queue: Queue, redis: Any) -> None:
    other = Queue(redis, uuid.uuid4().hex, 60)
    start(queue, "a", 1)
    assert idle(other)
    assert other.state("a") is None


# -- admission
def test_admissions_of_one_owner_come_one_after_the_other(queue: Queue) -> None:
    entered = threading.Event()

    def enter() -> None:
        with queue.admission("ann"):
            entered.set()

    thread = threading.Thread(target=enter)
    with queue.admission("ann"):
        thread.start()
        with queue.admission("bob"), queue.admission(None):
            pass
        assert not entered.is_set()
    thread.join()
    assert entered.is_set()


def test_an_admission_that_outlasts_its_lock_ends_well(queue: Queue) -> None:
    with queue.admission("ann"):
        queue.redis.delete(f"{queue.prefix}admission:ann")
