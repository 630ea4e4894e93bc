"""Real worker processes: killed, stopped, in pairs, on a full disk, on a corpus that changes under them."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.pack import Pack
from scorer.causal_lm.mamba2 import Mamba2
from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.contract.schemas import Job, JobRequest
from service.jobs.jobs import Jobs
from service.kinds import documents
from service.queue.tasks import MAX_ATTEMPTS
from service.store.workspace import Workspace
from service.work import worker as worker_module
from service.work.pool_worker import PoolWorker
from service.work.worker import Worker
from tests.forked import StartWorker
from tests.service.artefacts import results
from tests.service.pool import score_shards, until, write_corpus

MakeRequest = Callable[..., JobRequest]
WaitFor = Callable[..., Job]
TRAIN = {"train": {"preset": "tiny", "tokens": 4000, "fraction": 0.3, "seed": 7}}
LONG = 300  # documents a shard of the long corpus: a shard takes several heartbeats on a fast machine too
BEATS_OFTEN = {"lease_seconds": 1}


@pytest.fixture(scope="session")
def long_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards that take several batches each."""
    return write_corpus(tmp_path_factory.mktemp("long"), files=2, documents=LONG, words=400)


@pytest.fixture(scope="session")
def one_shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One shard of twice the length."""
    return write_corpus(tmp_path_factory.mktemp("one-shard"), files=1, documents=2 * LONG, words=400)


def in_flight(jobs: Jobs, job_id: str) -> bool:
    """Whether part of a shard of the long corpus is scored."""
    return jobs.get(job_id).progress.documents_done % LONG != 0


def test_a_worker_killed_in_the_middle_of_a_shard_costs_only_that_shard(
    jobs: Jobs, make_request: MakeRequest, start_worker: StartWorker, wait_for: WaitFor, long_corpus: Path
) -> None:
    victim = start_worker("victim", **BEATS_OFTEN)
    job, _ = jobs.create(make_request(long_corpus))
    until(lambda: in_flight(jobs, job.id))
    os.kill(victim.pid, signal.SIGKILL)
    start_worker("heir")
    ended = wait_for(job.id, "succeeded")
    assert (ended.progress.documents_done, ended.progress.shards_done) == (2 * LONG, 2)


@pytest.mark.every_workspace
def test_three_workers_give_the_bytes_of_one(
    jobs: Jobs,
    workspace: Workspace,
    redis: Any,
    make_request: MakeRequest,
    start_worker: StartWorker,
    wait_for: WaitFor,
    tmp_path: Path,
) -> None:
    selections = [{"criterion": c, "rate": r} for c in ("low", "medium", "high", "random") for r in (0.5, 0.1)]
    selections += [{"criterion": "random", "seed": 3}, {"criterion": "medium", "unit": "tokens", "per": "byte"}]
    request = make_request(selections=selections)
    alone = Jobs(Workspace(str(tmp_path / "alone")), redis)
    job, _ = alone.create(request)
    worker = PoolWorker(alone, ModelLoader("cpu"), RESOURCES, "alone")
    while worker.once():
        pass
    expected = results(alone.workspace, alone.get(job.id))
    for _ in range(3):
        start_worker()
    job, _ = jobs.create(request)
    assert results(workspace, wait_for(job.id, "succeeded")) == expected
    assert len(expected) == 13


def test_a_worker_that_is_told_to_stop_gives_its_shard_back(
    jobs: Jobs, make_request: MakeRequest, start_worker: StartWorker, one_shard: Path
) -> None:
    process = start_worker(lease_seconds=600)
    job, _ = jobs.create(make_request(one_shard))
    until(lambda: jobs.get(job.id).progress.documents_done > 0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert jobs.queue.stats().leased["gpu"] == 0
    lease = jobs.queue.claim("next", ["gpu"])
    assert lease is not None
    assert lease.attempts == 1


def test_a_worker_shows_that_it_lives_in_the_middle_of_a_shard_and_when_idle(
    jobs: Jobs,
    make_request: MakeRequest,
    start_worker: StartWorker,
    wait_for: WaitFor,
    one_shard: Path,
    tmp_path: Path,
) -> None:
    alive = tmp_path / "alive"
    jobs.check()  # makes the queue, or the worker may be at it when the job comes

    start_worker("shown", alive_file=str(alive), **BEATS_OFTEN)
    until(alive.exists)
    job, _ = jobs.create(make_request(one_shard))
    until(lambda: jobs.get(job.id).progress.documents_done > 0)
    os.utime(alive, (0, 0))
    until(lambda: alive.stat().st_mtime > 0)
    assert jobs.get(job.id).progress.shards_done == 0
    jobs.cancel(job.id)
    wait_for(jobs.create(make_request())[0].id, "succeeded")  # the worker has left the shard
    os.utime(alive, (0, 0))
    until(lambda: alive.stat().st_mtime > 0)


def test_a_cancelled_job_frees_its_worker(
    jobs: Jobs, make_request: MakeRequest, start_worker: StartWorker, wait_for: WaitFor, long_corpus: Path
) -> None:
    start_worker(**BEATS_OFTEN)
    job, _ = jobs.create(make_request(long_corpus))
    until(lambda: in_flight(jobs, job.id))
    jobs.cancel(job.id)
    other, _ = jobs.create(make_request())
    assert wait_for(other.id, "succeeded").progress.shards_done == 3
    assert jobs.get(job.id).status == "cancelled"


def test_a_long_shard_is_set_aside_for_a_small_job(
    jobs: Jobs,
    workspace: Workspace,
    redis: Any,
    make_request: MakeRequest,
    one_shard: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "_BETWEEN_SECONDS", 0.0)  # a look after each batch, on a fast machine too
    long, _ = jobs.create(make_request(one_shard))
    small: list[str] = []
    before, after = [], []  # the end of the small job: the long job, and its leases

    def look() -> None:
        """Between two batches: the small job comes in the middle of the long shard, and both are looked at."""
        shard = next((beat for beat in worker.heartbeat.held if beat.lease.job == long.id), None)
        if shard is None or not shard.note("cpu").documents:
            return
        if not small:
            small.append(jobs.create(make_request())[0].id)
        ended = jobs.get(small[0]).status == "succeeded"
        (after if ended else before).append((jobs.get(long.id), jobs.workers(long.id).data))
        if not ended:  # a minute of work on the shard is booked, so the small job is the less served one
            jobs.queue.beat(shard.lease, 60_000.0, shard.note("cpu").model_dump_json())

    worker = Worker(jobs.lifecycle, ModelLoader("cpu"), RESOURCES, "here", between=look)
    while worker.once():
        pass
    assert {job.status for job, _ in before} == {"scoring"}
    assert "Its worker does the short tasks of other jobs first, then goes on with this one." in {
        job.progress.waiting_for for job, _ in before
    }
    assert after[0][0].progress.shards_done == 0
    assert [(lease.task, lease.attempts) for lease in after[0][1]] == [("scores:0", 1)]
    together = results(workspace, jobs.get(long.id))
    alone = Jobs(Workspace(str(tmp_path / "alone")), redis)
    job, _ = alone.create(make_request(one_shard))
    other = PoolWorker(alone, ModelLoader("cpu"), RESOURCES, "alone")
    while other.once():
        pass
    assert results(alone.workspace, alone.get(job.id)) == together


def test_a_hung_worker_loses_its_shard_and_is_refused_when_it_wakes(
    jobs: Jobs, make_request: MakeRequest, start_worker: StartWorker, wait_for: WaitFor, long_corpus: Path
) -> None:
    hung = start_worker("hung", **BEATS_OFTEN)
    job, _ = jobs.create(make_request(long_corpus))
    until(lambda: in_flight(jobs, job.id))
    hung.send_signal(signal.SIGSTOP)
    start_worker("awake", **BEATS_OFTEN)
    until(lambda: jobs.get(job.id).progress.shards_done > 0)
    hung.send_signal(signal.SIGCONT)
    ended = wait_for(job.id, "succeeded")
    assert (ended.progress.documents_done, ended.progress.shards_done) == (2 * LONG, 2)


def test_a_shard_that_kills_its_workers_fails_the_job(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, wait_for: WaitFor
) -> None:
    job, _ = jobs.create(make_request())
    while (lease := jobs.queue.claim("before", ["gpu"])) is None or lease.task != "scores:0":
        if lease is not None:
            jobs.queue.release(lease)
        worker.once()
    jobs.queue.release(lease)
    for attempt in range(MAX_ATTEMPTS):
        lease = jobs.queue.claim(f"victim-{attempt}", ["gpu"])
        assert lease is not None
        assert lease.task == "scores:0"
        jobs.queue.reclaim(f"victim-{attempt}")
    while worker.once():
        pass
    failed = wait_for(job.id, "failed")
    assert failed.error is not None
    assert failed.error.status == 500
    assert "scores 0 was tried 5 times" in failed.error.detail
    assert "victim-4 died" in failed.error.detail


@pytest.mark.parametrize("change", ["grown", "touched", "removed"])
def test_a_corpus_that_changes_after_planning_fails_the_job_and_names_the_file(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, wait_for: WaitFor, tmp_path: Path, change: str
) -> None:
    folder = write_corpus(tmp_path / "corpus", files=2)
    job, _ = jobs.create(make_request(folder))
    while jobs.get(job.id).status != "scoring":
        worker.once()
    changed = folder / "part-1.parquet"
    if change == "grown":
        changed.write_bytes(changed.read_bytes() + b" ")
    elif change == "touched":
        os.utime(changed, ns=(1, 1))
    else:
        changed.unlink()
    while worker.once():
        pass
    failed = wait_for(job.id, "failed")
    assert failed.error is not None
    assert (failed.error.status, str(changed) in failed.error.detail) == (422, True)


def test_a_reference_that_changes_after_planning_fails_the_job(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, wait_for: WaitFor, reference: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in reference.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    job, _ = jobs.create(make_request(reference={"model": str(copy)}))
    while jobs.get(job.id).status != "scoring":
        worker.once()
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    while worker.once():
        pass
    failed = wait_for(job.id, "failed")
    assert failed.error is not None
    assert "has changed" in failed.error.detail


def test_a_full_disk_fails_the_job_with_its_reason_and_leaves_what_was_scored(
    redis: Any, make_request: MakeRequest, small_disk: Path, tmp_path: Path
) -> None:
    jobs = Jobs(Workspace(str(small_disk / "workspace")), redis)
    worker = PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "here")
    job, _ = jobs.create(make_request(write_corpus(tmp_path / "corpus", files=3, documents=500, words=6)))
    score_shards(jobs, worker, job.id)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize - 8192))
    until(lambda: not worker.once() and jobs.get(job.id).status != "scoring")
    failed = jobs.get(job.id)
    assert failed.status == "failed"
    assert failed.error is not None
    assert (failed.error.status, "No space left" in failed.error.detail) == (507, True)
    filler.unlink()
    again, _ = jobs.create(failed.request)
    while worker.once():
        pass
    assert jobs.get(again.id).status == "succeeded"
    assert jobs.queue.stats().totals.get("scores/shards", 0) == 3


def test_the_next_shard_is_read_while_the_last_batches_run(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    whole = documents.read_shard

    def watched(plan: Any, shard: Any, *more: Any, **named: Any) -> Any:
        read.append(shard.index)
        return whole(plan, shard, *more, **named)

    monkeypatch.setattr(documents, "read_shard", watched)
    threads = threading.active_count()
    job, _ = jobs.create(make_request(write_corpus(tmp_path / "corpus", files=4)))
    score_shards(jobs, worker, job.id)
    until(lambda: read == [0, 1])
    assert jobs.queue.stats().leased["gpu"] == 1  # claimed ahead
    other, _ = jobs.create(make_request(write_corpus(tmp_path / "other", files=1)))
    while worker.once():
        pass
    assert jobs.get(job.id).status == jobs.get(other.id).status == "succeeded"
    assert sorted(read) == [0, 0, 1, 2, 3]  # of the other job, and each once
    until(lambda: threading.active_count() <= threads)


def test_a_shard_that_was_read_for_nothing_is_dropped(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, tmp_path: Path
) -> None:
    threads = threading.active_count()
    job, _ = jobs.create(make_request(write_corpus(tmp_path / "corpus", files=3)))
    score_shards(jobs, worker, job.id)
    jobs.cancel(job.id)
    while worker.once():
        pass
    until(lambda: threading.active_count() <= threads)
    again, _ = jobs.create(jobs.get(job.id).request)
    while worker.once():
        pass
    assert jobs.get(again.id).status == "succeeded"


def test_too_little_memory_halves_the_budget_and_begins_the_shard_again(
    jobs: Jobs,
    make_request: MakeRequest,
    worker: PoolWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=2, documents=60, words=400)
    whole = Mamba2.nll

    def small(self: Mamba2, ids: torch.Tensor, targets: torch.Tensor, pack: Pack, *more: Any, **named: Any) -> Any:
        if pack.tokens > 1024:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, ids, targets, pack, *more, **named)

    monkeypatch.setattr(Mamba2, "nll", small)
    job, _ = jobs.create(make_request(corpus))
    while worker.once():
        pass
    ended = jobs.get(job.id)
    assert (ended.status, ended.error) == ("succeeded", None)
    assert ended.progress.documents_done == 120
    (scorer,) = ended.provenance["scorers"]  # both shards by one budget
    assert scorer["budget"] == 1024
    assert len([r for r in caplog.records if "too little memory" in r.message]) == 2  # 4,096 to 2,048 to 1,024
    monkeypatch.setattr(Mamba2, "nll", lambda *_args, **_named: small(whole, *[None] * 2, Pack.of([2048], "cpu")))
    other, _ = jobs.create(make_request(write_corpus(tmp_path / "other", files=1)))
    until(lambda: not worker.once() and jobs.get(other.id).status == "failed")
    failed = jobs.get(other.id)
    assert failed.error is not None
    assert "too little memory" in failed.error.detail


def test_a_killed_training_goes_on_and_its_documents_are_left_out(
    jobs: Jobs, make_request: MakeRequest, start_worker: StartWorker, wait_for: WaitFor
) -> None:
    job, _ = jobs.create(make_request(reference=TRAIN, selections=[{"criterion": "low", "rate": 1}]))
    first = start_worker()
    until(lambda: jobs.get(job.id).status == "training")
    first.kill()
    start_worker()
    ended = wait_for(job.id, "succeeded")
    assert ended.reference is not None
    assert ended.progress.training_tokens_done == ended.progress.training_tokens_total == ended.reference.tokens
    assert ended.reference.tokens == 4 * ended.reference.distinct_tokens < 4000  # the split is small
    assert 0 < ended.selections[0].documents < 120
    assert jobs.workspace.storage.list("training") == []


def test_equal_jobs_share_one_trained_reference(
    jobs: Jobs, make_request: MakeRequest, start_worker: StartWorker, wait_for: WaitFor, worker: PoolWorker
) -> None:
    equal = [jobs.create(make_request(reference=TRAIN))[0].id for _ in range(2)]
    start_worker()
    start_worker()
    hashes = {wait_for(job, "succeeded").provenance["reference"]["sha256"] for job in equal}
    assert len(hashes) == len(jobs.workspace.storage.list("model")) == 1
    later, _ = jobs.create(make_request(reference=TRAIN))
    while jobs.get(later.id).status != "succeeded":
        worker.once()
        assert jobs.get(later.id).status != "training"


def test_a_workspace_that_is_no_folder(
    redis: Any, make_request: MakeRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jobs = Jobs(Workspace(f"memory://{tmp_path.name}"), redis)
    worker = PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "here")
    job, _ = jobs.create(make_request(reference=TRAIN))
    while worker.once():
        pass
    ended = jobs.get(job.id)
    assert (ended.status, ended.error) == ("succeeded", None)
    assert len(results(jobs.workspace, ended)) == 4


def test_no_document_of_the_corpus_is_text_enough(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, tmp_path: Path
) -> None:
    (tmp_path / "none.jsonl").write_text('{"text": null}\n{"text": ""}\n' + '{"text": 3}\n' * 3)
    job, _ = jobs.create(make_request(corpus={"paths": [str(tmp_path / "none.jsonl")]}))
    while worker.once():
        pass
    failed = jobs.get(job.id)
    assert failed.error is not None
    assert "not text" in failed.error.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_a_worker_says_as_it_starts_that_its_device_is_not_there(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    ModelLoader("cuda").warm_up()
    assert "device cuda was asked for, and torch finds none on this machine" in caplog.text
