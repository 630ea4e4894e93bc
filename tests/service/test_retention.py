"""What goes from a workspace by age and by size, and what stays."""

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pruner.tables.storage import Storage
from service.contract.ablations import AblationRequest
from service.contract.schemas import ExportOptions, JobRequest
from service.jobs.ablations import add_ablation, cancel_ablation
from service.jobs.exports import add_export
from service.jobs.jobs import Jobs, UnknownJob
from service.run import retention
from service.run.retention import clean
from service.run.settings import RetentionPolicy, Settings
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker
from tests.forked import Forked
from tests.service.artefacts import files_of, manifest_path
from tests.service.pool import score_shards, write_corpus
from tests.service.shell import Run

MakeRequest = Callable[..., JobRequest]
WorkOff = Callable[[], None]
DAY = 86_400.0


def age(jobs: Jobs, job_id: str, days: float) -> None:
    """Makes a job that has ended, and all scores, as if that had been so many days ago."""
    outcome = jobs.workspace.outcome(job_id)
    assert outcome is not None
    older = outcome.model_copy(update={"finished_at": outcome.finished_at - timedelta(days=days)})
    jobs.workspace.storage.write_bytes(jobs.workspace.path(job_id, "outcome.json"), older.model_dump_json().encode())
    for file in jobs.workspace.storage.files("scores"):
        set_time(jobs.workspace.storage, file.path, time.time() - days * DAY)


def set_time(storage: Storage, path: str, seconds: float) -> None:
    """Makes a file as if it had been written then."""
    local = storage.local(path)
    if local is None:
        pytest.skip("an object store says itself when an object was written")
    os.utime(local, (seconds, seconds))


def there(jobs: Jobs) -> tuple[list[str], int]:
    """The jobs, and how many score files there are."""
    return jobs.workspace.jobs(), len(list(jobs.workspace.storage.files("scores")))


def test_what_is_too_old_goes_and_is_forgotten(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    old, _ = jobs.create(make_request())
    work_off()
    age(jobs, old.id, 8)
    new, _ = jobs.create(make_request())
    work_off()
    assert clean(jobs.workspace, RetentionPolicy(days=9), jobs.queue.forget).jobs == 0
    removed = clean(jobs.workspace, RetentionPolicy(days=7), jobs.queue.forget)
    assert (removed.jobs, removed.scores) == (1, 3)
    assert there(jobs) == ([new.id], 0)
    assert [job.id for job in jobs.page().data] == [new.id]
    with pytest.raises(UnknownJob):
        jobs.get(old.id)
    again, _ = jobs.create(make_request())
    work_off()
    assert jobs.get(again.id).status == "succeeded"


def test_a_job_of_which_more_is_under_way_stays(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff, corpus: Path
) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    age(jobs, job.id, 8)
    policy, (made, *_) = RetentionPolicy(days=7), jobs.get(job.id).selections
    files = {file.path for file in jobs.workspace.storage.files("")}
    ablation = add_ablation(jobs, job.id, AblationRequest(selection=[made.id], heldout={"corpus": str(corpus)}))
    assert clean(jobs.workspace, policy, jobs.queue.forget).jobs == 0
    assert files <= {file.path for file in jobs.workspace.storage.files("")}
    cancel_ablation(jobs, job.id, ablation.id)
    add_export(jobs, job.id, made.id, ExportOptions(), ())
    assert clean(jobs.workspace, policy, jobs.queue.forget).jobs == 0
    work_off()
    assert clean(jobs.workspace, policy, jobs.queue.forget).jobs == 1
    assert jobs.workspace.jobs() == []


def test_the_oldest_goes_first_until_the_rest_fits(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff, tmp_path: Path
) -> None:
    made = []
    for number in range(4):
        made.append(jobs.create(make_request(write_corpus(tmp_path / str(number), files=1)))[0].id)
        work_off()
    size = sum(file.size for file in jobs.workspace.storage.files("") if file.path != "workspace.json")
    removed = clean(jobs.workspace, RetentionPolicy(bytes=size // 2), jobs.queue.forget)
    kept, scores = there(jobs)
    assert kept == sorted(made[-len(kept) :])
    assert 1 <= len(kept) < 4
    assert 1 <= scores < 4
    assert removed.left <= size // 2
    assert removed.left + removed.bytes == size
    assert clean(jobs.workspace, RetentionPolicy(bytes=size), jobs.queue.forget).bytes == 0


def test_a_job_at_work_keeps_its_scores(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, work_off: WorkOff
) -> None:
    job, _ = jobs.create(make_request())
    score_shards(jobs, worker, job.id, 2)
    removed = clean(jobs.workspace, RetentionPolicy(days=1e-9, bytes=0), jobs.queue.forget)
    assert (removed.jobs, removed.scores) == (0, 0)
    work_off()
    assert jobs.queue.stats().totals.get("scores/shards", 0) == 3


def test_scores_that_went_before_they_were_joined_are_made_again(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, work_off: WorkOff
) -> None:
    job, _ = jobs.create(make_request())
    while jobs.get(job.id).status != "selecting":
        worker.once()
    gone = next(iter(jobs.workspace.storage.files("scores")))
    jobs.workspace.storage.remove(gone.path)
    work_off()
    ended = jobs.get(job.id)
    assert (ended.status, ended.progress.documents_done) == ("succeeded", 120)
    assert jobs.queue.stats().totals.get("scores/shards", 0) == 4


def test_what_a_cancelled_training_left_goes(jobs: Jobs, make_request: MakeRequest, worker: PoolWorker) -> None:
    job, _ = jobs.create(make_request(reference={"train": {"tokens": 1000}}))
    while jobs.get(job.id).status != "training":
        worker.once()
    trained = (files_of(jobs.workspace, job.id).model_path or "").split("/")[1]
    for name in (trained, "other"):
        jobs.workspace.storage.write_bytes(f"training/{name}/state/step", bytes(100))
    clean(jobs.workspace, RetentionPolicy(bytes=0), jobs.queue.forget)
    assert jobs.workspace.storage.list("training") == [trained]
    jobs.cancel(job.id)
    removed = clean(jobs.workspace, RetentionPolicy(bytes=0), jobs.queue.forget)
    assert (removed.jobs, removed.scores, removed.left) == (1, 0, 0)
    assert jobs.workspace.storage.list("training") == []


def test_a_job_that_cannot_be_read_keeps_no_other(
    jobs: Jobs, make_request: MakeRequest, work_off: Callable[[], None]
) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    jobs.workspace.storage.write_bytes("jobs/ill/job.json", b"{")
    removed = clean(jobs.workspace, RetentionPolicy(bytes=0), jobs.queue.forget)
    assert removed.jobs == 1
    assert set(jobs.workspace.jobs()) == {"ill"}
    assert jobs.workspace.job(job.id) is None


def test_the_results_of_a_job_that_cannot_be_read_stay(
    jobs: Jobs, make_request: MakeRequest, work_off: Callable[[], None]
) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    path, manifest = jobs.workspace.path(job.id, "job.json"), manifest_path(jobs.workspace, job.id)
    record = jobs.workspace.storage.read_bytes(path)
    jobs.workspace.storage.write_bytes(path, b"{")
    assert clean(jobs.workspace, RetentionPolicy(bytes=0), jobs.queue.forget).jobs == 0
    jobs.workspace.storage.write_bytes(path, record)
    assert jobs.workspace.storage.exists(manifest)


def test_half_files_and_half_jobs_go(jobs: Jobs) -> None:
    storage = jobs.workspace.storage
    for name in ("jobs/new/room", "jobs/old/room", f"scores/k/.x.{'0' * 32}.part"):
        storage.write_bytes(name, b"x")
    set_time(storage, "jobs/old/room", 1)
    removed = clean(jobs.workspace, RetentionPolicy(), jobs.queue.forget)
    assert (removed.half_files, storage.list("jobs"), storage.list("scores/k")) == (1, ["new"], [])


def test_a_workspace_elsewhere(redis: Any, make_request: MakeRequest, tmp_path: Path) -> None:
    jobs = Jobs(Workspace(f"memory://{tmp_path.name}"), redis)
    job, _ = jobs.create(make_request())
    jobs.cancel(job.id)
    assert clean(jobs.workspace, RetentionPolicy(days=1), jobs.queue.forget).jobs == 0
    assert clean(jobs.workspace, RetentionPolicy(bytes=0), jobs.queue.forget).jobs == 1
    assert (jobs.workspace.jobs(), jobs.page().data) == ([], [])


def test_the_command(jobs: Jobs, redis_url: str, make_request: MakeRequest, work_off: WorkOff, run: Run) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    age(jobs, job.id, 2)

    command = ("clean", "--workspace", jobs.workspace.storage.url)
    assert run(*command).status == 2
    assert "no workspace" in run(*command, "--keep-days", "1", "--workspace", f"{command[-1]}/typo").err
    assert run(*command, "--keep-days", "3").out.startswith("removed 0 jobs and 0 score files")
    assert run(*command, "--keep-days", "1", "--redis", redis_url).out.startswith("removed 1 jobs and 3 score files")
    assert jobs.page().data == []


def test_a_pass_of_a_service(
    fork_server: None, jobs: Jobs, redis_url: str, make_request: MakeRequest, work_off: WorkOff
) -> None:
    job, _ = jobs.create(make_request())
    work_off()
    age(jobs, job.id, 2)
    settings = Settings(workspace=jobs.workspace.storage.url, redis=redis_url, keep_days=1)
    assert Forked(retention.main, env=settings.environment()).wait() == 0
    assert (there(jobs), jobs.page().data) == (([], 0), [])


def test_what_was_removed_with_no_redis_is_forgotten_at_the_next_start(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff
) -> None:
    kept, gone = (jobs.create(make_request())[0].id for _ in range(2))
    work_off()
    age(jobs, gone, 2)
    clean(jobs.workspace, RetentionPolicy(days=1), lambda _: None)
    jobs.recover()
    assert [job.id for job in jobs.page().data] == [kept]
