"""Who is served when there is more work than workers: shares of time, priorities, quotas, and a clock that is set."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from service.contract.quotas import QuotaExceeded, Quotas
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import LeaseLost, Queue
from service.work.pool_worker import PoolWorker
from tests.service.artefacts import files_of
from tests.service.pool import until

MakeRequest = Callable[..., JobRequest]
WorkOff = Callable[[], None]
HOUR = 3_600_000  # ms
SCORE = ("score",)


def pass_time(queue: Queue, milliseconds: int) -> None:
    """Moves the clock that the queue reads: up to a minute as if time went by, further as if it was set."""
    queue.redis.hincrby(f"{queue.prefix}clock", "ahead", milliseconds)


def start(queue: Queue, job: str, shards: int, priority: int = 0) -> None:
    queue.add(job, 1, {}, priority=priority)
    assert queue.submit(job, "score", shards, {})


def work(queue: Queue, workers: int, durations: dict[str, int], until: str) -> tuple[int, Counter[str]]:
    """Some workers on tasks of these ms each, until a job has none left: the ms that took, and the time each job got.

    Workers beat twice a second of the queue's time, as real ones do.
    """
    now, served, busy = 0, Counter[str](), dict[int, Any]()
    while queue.redis.exists(f"{queue.prefix}tasks:score:{until}"):
        for worker in range(workers):
            if worker not in busy and (lease := queue.claim(f"w{worker}", SCORE)) is not None:
                busy[worker] = (now + durations[lease.job], lease)
        step = min(min(end for end, _ in busy.values()) - now, 500)
        now += step
        pass_time(queue, step)
        for worker, (end, lease) in list(busy.items()):
            served[lease.job] += step
            if end <= now:
                queue.done(lease)
                del busy[worker]
            else:
                queue.beat(lease)
    return now, served


@pytest.mark.parametrize("workers", [1, 4])
def test_a_small_job_behind_a_huge_one_takes_about_twice_its_time_alone(
    make_queue: Callable[..., Queue], workers: int
) -> None:
    queue = make_queue()
    durations = {"huge": 700, "small": 700, "alone": 700}
    start(queue, "alone", 20)
    alone, _ = work(queue, workers, durations, "alone")
    start(queue, "huge", 500)
    for _ in range(workers):
        queue.claim("before", SCORE)  # the huge job has been served for a while
    start(queue, "small", 20)
    together, _ = work(queue, workers, durations, "small")
    assert alone < together <= 2.2 * alone + 700


def test_shares_are_of_time_and_not_of_shards(queue: Queue) -> None:
    start(queue, "long", 500)
    start(queue, "short", 100)
    _, served = work(queue, 2, {"long": 4000, "short": 400}, "short")
    assert 0.8 < served["long"] / served["short"] < 1.3


def test_each_step_of_priority_doubles_a_share(queue: Queue) -> None:
    start(queue, "normal", 1000)
    start(queue, "low", 1000, priority=-1)
    start(queue, "high", 120, priority=2)
    _, served = work(queue, 3, {"normal": 500, "low": 500, "high": 500}, "high")
    assert 3 < served["high"] / served["normal"] < 5
    assert 1.5 < served["normal"] / served["low"] < 3


def test_a_job_keeps_its_priority_when_redis_was_lost(jobs: Jobs, make_request: MakeRequest) -> None:
    job, _ = jobs.create(make_request(priority=3), owner="ann")
    jobs.queue.forget(job.id)
    jobs.recover()
    assert jobs.get(job.id).request.priority == 3
    assert jobs.queue.redis.hmget(f"{jobs.queue.prefix}job:{job.id}", "weight", "owner") == ["8.0", "ann"]


# -- a clock that is set
@pytest.mark.parametrize("leap", [HOUR, -HOUR])
def test_a_clock_that_is_set_moves_no_lease(make_queue: Callable[..., Queue], leap: int) -> None:
    queue = make_queue(10)
    start(queue, "a", 2)
    held = queue.claim("w", SCORE)
    other = queue.claim("dead", SCORE)
    assert held is not None
    assert other is not None
    pass_time(queue, leap)
    assert queue.claim("idle", SCORE) is None
    pass_time(queue, 6000)
    queue.beat(held)
    pass_time(queue, 6000)
    again = queue.claim("idle", SCORE)
    assert again is not None
    assert again.task == other.task
    assert queue.claim("idle", SCORE) is None
    queue.done(held)
    with pytest.raises(LeaseLost):
        queue.done(other)


def test_fences_go_on_when_the_data_was_lost(queue: Queue, redis: Any) -> None:
    start(queue, "a", 1)
    before = queue.claim("w", SCORE)
    queue.forget("a")
    redis.delete(f"{queue.prefix}fence")
    lost_at = redis.time()
    until(lambda: redis.time() >= (lost_at[0], lost_at[1] + 1000))
    start(queue, "a", 1)
    after = queue.claim("w", SCORE)
    assert before is not None
    assert after is not None
    assert after.fence > before.fence
    with pytest.raises(LeaseLost):
        queue.done(before)
    queue.done(after)


# -- quotas
def limited(these: Jobs, **limits: int) -> Jobs:
    return Jobs(these.workspace, these.queue.redis, quotas=Quotas(**limits))


def test_an_owner_has_so_many_unfinished_jobs(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    jobs = limited(jobs, jobs=2)
    first, _ = jobs.create(make_request(), "a key", owner="ann")
    second, _ = jobs.create(make_request(), owner="ann")
    with pytest.raises(QuotaExceeded, match="2 unfinished jobs and the quota is 2"):
        jobs.create(make_request(), owner="ann")
    assert jobs.create(make_request(), "a key", owner="ann") == (jobs.get(first.id), False)
    jobs.create(make_request(), owner="bob")
    jobs.create(make_request())
    jobs.cancel(second.id)
    jobs.create(make_request(), owner="ann")
    work_off()
    for _ in range(2):
        jobs.create(make_request(), owner="ann")
    assert len(jobs.page(100).data) == 7


@pytest.mark.parametrize("quota", ["shards", "bytes"])
def test_shards_and_bytes_count_until_they_are_scored(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, quota: str
) -> None:
    job, _ = jobs.create(make_request(), owner="ann")
    while jobs.get(job.id).status != "scoring":
        worker.once()
    plan = files_of(jobs.workspace, job.id).corpus
    assert plan is not None
    jobs = limited(jobs, **{quota: {"shards": plan.shards, "bytes": plan.text_bytes}[quota]})
    with pytest.raises(QuotaExceeded, match=f"{plan.shards if quota == 'shards' else plan.text_bytes:,} "):
        jobs.create(make_request(), owner="ann")
    jobs.create(make_request(), owner="bob")
    while jobs.get(job.id).progress.shards_done == 0:
        worker.once()
    second, _ = jobs.create(make_request(), owner="ann")
    third, _ = jobs.create(make_request(), owner="ann")  # no shards of the second are known yet
    while worker.once():
        pass
    assert {jobs.get(other.id).status for other in (job, second, third)} == {"succeeded"}


def test_a_job_counts_while_its_reference_is_trained(jobs: Jobs, make_request: MakeRequest, worker: PoolWorker) -> None:
    job, _ = jobs.create(make_request(reference={"train": {"tokens": 1000}}), owner="ann")
    while jobs.get(job.id).status != "training":
        worker.once()
    with pytest.raises(QuotaExceeded, match="3 shards to score and the quota is 3"):
        limited(jobs, shards=3).create(make_request(), owner="ann")
    with pytest.raises(QuotaExceeded, match="bytes of text to score"):
        limited(jobs, bytes=1).create(make_request(), owner="ann")


def test_a_job_over_a_quota_fails_and_says_so(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    job, _ = limited(jobs, shards=2).create(make_request())
    work_off()
    failed = jobs.get(job.id)
    assert failed.error is not None
    assert (failed.status, failed.error.status) == ("failed", 422)
    assert "3 shards to score and the quota is 2" in failed.error.detail


def test_quotas_hold_for_requests_at_once_and_when_redis_was_lost(jobs: Jobs, make_request: MakeRequest) -> None:
    jobs = limited(jobs, jobs=5)
    refused: list[str] = []

    def submit() -> None:
        try:
            jobs.create(make_request(), owner="ann")
        except QuotaExceeded as error:
            refused.append(error.quota)

    threads = [threading.Thread(target=submit) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["jobs"] * 7
    for job in jobs.page().data:
        jobs.queue.forget(job.id)
    jobs.recover()
    submit()
    assert len(refused) == 8


def test_a_job_that_was_let_in_and_never_came_counts_for_a_minute(jobs: Jobs, make_request: MakeRequest) -> None:
    jobs = limited(jobs, jobs=1)
    assert jobs.queue.admit("lost", "ann", {"jobs": 1}) is None
    with pytest.raises(QuotaExceeded):
        jobs.create(make_request(), owner="ann")
    for _ in range(2):
        pass_time(jobs.queue, 40_000)
        jobs.queue.stats()
    jobs.create(make_request(), owner="ann")


def test_over_http_a_quota_is_a_429(api: httpx.Client, jobs: Jobs, make_request: MakeRequest) -> None:
    jobs.quotas = Quotas(jobs=1)
    body = make_request().model_dump(mode="json")
    assert api.post("/v1/jobs", json=body).status_code == 202
    refused = api.post("/v1/jobs", json=body)
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["quota"] == "jobs"
    assert "429" in api.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["responses"]
    assert len(api.get("/v1/jobs").json()["data"]) == 1
