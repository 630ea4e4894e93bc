"""Quotas of an owner: unfinished jobs, shards and bytes to score; what counts, and how a refusal reads."""

import threading
from collections.abc import Callable

import httpx
import pytest

from service.contract.quotas import QuotaExceeded, Quotas
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.work.pool_worker import PoolWorker
from tests.service.artefacts import files_of

MakeRequest = Callable[..., JobRequest]
WorkOff = Callable[[], None]


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
