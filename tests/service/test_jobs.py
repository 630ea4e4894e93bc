"""A job's life on a real Redis and workspace: accepting, moving on, ending, and rebuilding Redis from the files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pruner.errors import InputError
from pruner.spec import SelectionSpec
from pruner.tables.storage import Storage
from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.contract.schemas import JobRequest
from service.jobs.jobs import Conflict, Jobs, KeyReused, UnknownJob
from service.kinds import job_files
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker
from tests.service.artefacts import results, table_path
from tests.service.pool import score_shards

MakeRequest = Callable[..., JobRequest]
WorkOff = Callable[[], None]


def lose_redis(jobs: Jobs) -> Jobs:
    """Drops all that Redis holds of this workspace; a process that comes to it then."""
    for key in jobs.queue.redis.scan_iter(f"{jobs.queue.prefix.replace('{', '?').replace('}', '?')}*"):
        jobs.queue.redis.delete(key)
    return Jobs(jobs.workspace, jobs.queue.redis)


@pytest.mark.every_workspace
def test_a_job_goes_from_request_to_manifest(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    job, created = jobs.create(make_request())
    assert created
    assert (job.status, job.started_at, job.selections) == ("queued", None, [])
    work_off()
    job = jobs.get(job.id)
    assert job.error is None
    assert job.status == "succeeded"
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    done = job.progress
    assert (done.documents_done, done.documents_total, done.shards_done, done.shards_total) == (120, 120, 3, 3)
    assert done.tokens_done > 0
    [made] = job.selections
    assert (made.id, made.documents) == ("medium-0.5", 60)
    assert made.manifest_url == f"/v1/jobs/{job.id}/selections/medium-0.5/manifest"
    names = {"scores.parquet", "rejects.parquet", "report.json", "medium-0.5/manifest.parquet"}
    assert set(results(jobs.workspace, job)) == names


def test_provenance_names_no_time_host_path_or_job(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff, reference: Path, corpus: Path
) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    text = json.dumps(jobs.get(job.id).provenance)
    assert "tokenizer_sha256" in text
    for private in (job.id, str(reference), str(corpus), str(jobs.workspace.storage.url)):
        assert private not in text


def test_a_job_is_on_storage_before_it_is_accepted(jobs: Jobs, make_request: MakeRequest) -> None:
    job, _ = jobs.create(make_request())
    record = Workspace(jobs.workspace.storage.url).job(job.id)
    assert record is not None
    assert record.request == job.request


@pytest.mark.every_workspace
def test_records_that_appear_while_a_job_is_looked_at_do_not_end_it(
    jobs: Jobs, worker: PoolWorker, make_request: MakeRequest, work_off: WorkOff, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = jobs.create(make_request())
    missing = Storage.missing

    def missing_later(self: Storage, paths: Sequence[str]) -> Sequence[int]:
        """Another worker plans the corpus and finds the model first."""
        monkeypatch.setattr(Storage, "missing", missing)
        while jobs.get(job.id).status in ("queued", "planning"):
            worker.once()
        return missing(self, paths)

    monkeypatch.setattr(Storage, "missing", missing_later)
    jobs.lifecycle.advance(job.id)
    assert jobs.get(job.id).status == "scoring"
    work_off()
    assert jobs.get(job.id).selections[0].documents == 60


def test_an_idempotency_key_gives_the_same_job(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    first, created = jobs.create(make_request(), "key")
    again, created_again = lose_redis(jobs).create(make_request(), "key")
    assert (created, created_again, again.id) == (True, False, first.id)
    with pytest.raises(KeyReused):
        jobs.create(make_request(selections=[{"rate": 0.25}]), "key")
    work_off()
    assert jobs.create(make_request(), "key")[0].status == "succeeded"
    assert jobs.create(make_request(), "other")[0].id != first.id


def test_unknown_jobs(jobs: Jobs) -> None:
    for call in (jobs.get, jobs.cancel, lambda name: jobs.add_selection(name, SelectionSpec())):
        for name in ("nobody", "../jobs", "", "a/b"):
            with pytest.raises(UnknownJob):
                call(name)


def test_pages(jobs: Jobs, make_request: MakeRequest) -> None:
    made = [jobs.create(make_request())[0].id for _ in range(5)]
    jobs.cancel(made[1])
    first = jobs.page(limit=3)
    second = jobs.page(limit=3, cursor=first.next_cursor)
    assert [job.id for job in first.data + second.data] == made[::-1]
    assert second.next_cursor is None
    assert [job.id for job in jobs.page(status="cancelled").data] == [made[1]]
    with pytest.raises(ValueError, match="invalid literal"):
        jobs.page(cursor="x-y")


@pytest.mark.parametrize("tasks", range(0, 12, 2))
def test_redis_can_be_lost_at_any_moment(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, work_off: WorkOff, tasks: int
) -> None:
    job, _ = jobs.create(make_request())
    for _ in range(tasks):
        worker.once()
    after = lose_redis(jobs)
    assert [found.id for found in after.page().data] == [job.id]
    work_off()
    ended = jobs.get(job.id)
    assert (ended.status, ended.progress.documents_done, ended.progress.shards_done) == ("succeeded", 120, 3)


@pytest.mark.every_workspace
def test_a_recovery_while_the_job_goes_on_changes_nothing(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker
) -> None:
    job, _ = jobs.create(make_request())
    while worker.once():
        jobs.recover()
        jobs.recover()
    ended = jobs.get(job.id)
    assert (ended.status, ended.progress.documents_done) == ("succeeded", 120)


def test_a_job_keeps_its_priority_and_owner_when_redis_was_lost(jobs: Jobs, make_request: MakeRequest) -> None:
    job, _ = jobs.create(make_request(priority=3), owner="ann")
    found = lose_redis(jobs)
    assert found.get(job.id).request.priority == 3
    assert found.queue.redis.hmget(f"{found.queue.prefix}job:{job.id}", "weight", "owner") == ["8.0", "ann"]


def test_an_equal_job_reuses_the_scores(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    first, _ = jobs.create(make_request())
    work_off()
    scored = jobs.queue.stats().totals.get("scores/shards", 0)
    second, _ = jobs.create(make_request(selections=[{"criterion": "low", "rate": 0.1}]))
    work_off()
    assert jobs.queue.stats().totals.get("scores/shards", 0) == scored == 3
    again = jobs.get(second.id)
    assert again.progress.tokens_done == jobs.get(first.id).progress.tokens_done
    assert again.selections[0].documents == 12


def test_cancelling(jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, work_off: WorkOff) -> None:
    job, _ = jobs.create(make_request())
    for _ in range(3):
        worker.once()
    cancelled = jobs.cancel(job.id)
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert cancelled.finished_at is not None
    assert jobs.cancel(job.id) == cancelled
    assert not worker.once()
    jobs = lose_redis(jobs)
    assert jobs.get(job.id) == cancelled
    assert not worker.once()
    with pytest.raises(Conflict):
        jobs.add_selection(job.id, SelectionSpec(rate=0.1))


def test_an_ended_job_cannot_be_cancelled(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    with pytest.raises(Conflict, match="succeeded"):
        jobs.cancel(job.id)
    assert jobs.get(job.id).status == "succeeded"


def test_more_selections_of_a_scored_job(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    job, _ = jobs.create(make_request())
    spec = SelectionSpec(criterion="high", rate=0.25, within="domain")
    with pytest.raises(Conflict, match="no scores to select from yet"):
        jobs.add_selection(job.id, spec)
    work_off()
    assert jobs.add_selection(job.id, spec) is None
    assert jobs.selection(job.id, spec.id) is None
    work_off()
    made = jobs.selection(job.id, spec.id)
    assert made is not None
    assert made.documents == 30
    assert jobs.add_selection(job.id, spec) == made
    assert [s.id for s in jobs.get(job.id).selections] == ["medium-0.5", spec.id]
    assert jobs.get(job.id).status == "succeeded"


def test_a_selection_that_was_asked_for_survives_the_loss_of_redis(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff
) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    jobs.add_selection(job.id, SelectionSpec(rate=0.1))
    jobs = lose_redis(jobs)
    jobs.check()
    work_off()
    assert jobs.selection(job.id, "medium-0.1") is not None


def test_a_selection_within_domains_needs_a_domain_field(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff, corpus: Path
) -> None:
    job, _ = jobs.create(make_request(corpus={"paths": [str(corpus)]}))
    work_off()
    with pytest.raises(InputError, match="domain_field"):
        jobs.add_selection(job.id, SelectionSpec(within="domain"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"corpus": {"paths": ["/nowhere/at/all"]}}, "/nowhere/at/all"),
        ({"corpus": {"paths": ["{corpus}/*.jsonl"]}}, "jsonl"),
        ({"corpus": {"paths": ["{corpus}"], "text_field": "body"}}, "body"),
        ({"corpus": {"paths": ["{corpus}"], "domain_field": "host"}}, "host"),
        ({"reference": {"model": "/no/model/here"}}, "/no/model/here"),
        ({"reference": {"model": "{corpus}"}}, "{corpus}"),
    ],
)
def test_what_the_user_got_wrong_fails_the_job_at_once(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, corpus: Path, changes: dict[str, Any], reason: str
) -> None:
    given = json.loads(json.dumps(changes).replace("{corpus}", str(corpus)))
    job, _ = jobs.create(make_request(**given))
    assert worker.once()
    worker.once()
    failed = jobs.get(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert reason.replace("{corpus}", str(corpus)) in failed.error.detail
    assert "\n" not in failed.error.detail
    assert (failed.error.status, failed.error.type) == (422, "about:blank")
    assert not worker.once()


@pytest.mark.parametrize("changes", [{}, {"reference": {"train": {"preset": "tiny", "tokens": 1000}}}])
def test_fp8_without_a_hopper_gpu_fails_the_job_before_any_training(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff, changes: dict[str, Any]
) -> None:
    job, _ = jobs.create(make_request(scoring={"dtype": "fp8"}, **changes))
    work_off()
    failed = jobs.get(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert "dtype fp8 needs a Hopper GPU" in failed.error.detail
    assert failed.error.status == 422
    assert failed.progress.training_tokens_done == 0
    assert failed.progress.documents_done == 0


def test_a_bad_folder_does_not_stop_the_recovery(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    jobs.workspace.storage.write_bytes("jobs/broken/job.json", b"{")
    jobs.workspace.storage.write_bytes("jobs/empty/notes.txt", b"")
    job, _ = jobs.create(make_request())
    jobs = lose_redis(jobs)
    jobs.check()
    work_off()
    assert jobs.get(job.id).status == "succeeded"


def test_a_job_with_a_damaged_artefact_fails_after_the_recovery(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, work_off: WorkOff
) -> None:
    job, _ = jobs.create(make_request())
    score_shards(jobs, worker, job.id)
    (part,) = jobs.workspace.storage.files("scores")
    jobs.workspace.storage.write_bytes(part.path, b"PAR1")
    jobs = lose_redis(jobs)
    jobs.check()
    work_off()
    failed = jobs.get(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert f"{part.path}: is damaged" in failed.error.detail


@pytest.mark.parametrize("name", ["corpus.json", "model.json"])
def test_a_job_with_a_damaged_record_fails(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, name: str
) -> None:
    job, _ = jobs.create(make_request())
    score_shards(jobs, worker, job.id)
    jobs.workspace.storage.write_bytes(jobs.workspace.path(job.id, name), b"{")
    after = Jobs(Workspace(jobs.workspace.storage.url), jobs.queue.redis)  # as another process sees it
    other = PoolWorker(after, ModelLoader("cpu"), RESOURCES, "there")
    while other.once():
        pass
    failed = after.get(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert f"jobs/{job.id}/{name}: is damaged" in failed.error.detail


def test_a_damaged_job_hides_no_other(jobs: Jobs, make_request: MakeRequest) -> None:
    damaged, whole = (jobs.create(make_request())[0].id for _ in range(2))
    jobs.workspace.storage.write_bytes(jobs.workspace.path(damaged, "job.json"), b"{")
    after = Jobs(Workspace(jobs.workspace.storage.url), jobs.queue.redis)
    assert [job.id for job in after.page().data] == [whole]
    assert after.counts()["queued"] == 1
    with pytest.raises(InputError, match=f"{damaged}/job.json: is damaged"):
        after.get(damaged)


def test_a_later_selection_that_cannot_be_reported_goes_and_the_job_stays(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff
) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    summary = table_path(jobs.workspace, job.id, "summary.json")
    jobs.workspace.storage.write_bytes(summary, b"{")
    jobs.add_selection(job.id, SelectionSpec(rate=0.1))
    work_off()
    after = jobs.get(job.id)
    assert (after.status, [made.id for made in after.selections]) == ("succeeded", ["medium-0.5"])
    assert jobs.workspace.storage.list(jobs.workspace.path(job.id, "selections")) == []


def test_a_trained_reference_stays_where_it_is_when_a_later_version_trains_anew(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = jobs.create(make_request(reference={"train": {"tokens": 1000}}))
    work_off()
    before = results(jobs.workspace, jobs.get(job.id))
    monkeypatch.setattr(job_files, "TRAINER", job_files.TRAINER + 1)
    assert results(jobs.workspace, jobs.get(job.id)) == before
    jobs.add_selection(job.id, SelectionSpec(rate=0.1))
    work_off()
    assert [made.id for made in jobs.get(job.id).selections] == ["medium-0.5", "medium-0.1"]
    assert len(jobs.workspace.storage.list("model")) == 1
