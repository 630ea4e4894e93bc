"""Looking into a job over HTTP: previews, documents by rank, a histogram that grows, who works on it."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.contract.schemas import JobRequest, Progress
from service.jobs.jobs import Jobs
from service.jobs.status import progress_of, tokens_left
from service.queue.tasks import Done, NodeTasks
from service.store.records import JobSummary, TaskNote
from service.work.pool_worker import PoolWorker
from tests.service.artefacts import files_of
from tests.service.pool import until, write_corpus

SPECS = [
    {"criterion": "low", "rate": 0.3},
    {"criterion": "medium", "rate": 0.145, "unit": "tokens"},
    {"criterion": "high", "rate": 0.5, "within": "domain"},
    {"criterion": "medium", "rate": 0.01, "unit": "tokens", "within": "domain"},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "-".join(str(value) for value in spec.values()))
def test_a_preview_is_the_selection_that_is_then_made(
    api: httpx.Client,
    pruned: dict[str, Any],
    jobs: Jobs,
    start_worker: Callable[..., Any],
    spec: dict[str, Any],
) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    preview = api.get(f"{base}/preview", params=spec).json()
    start_worker()
    answer = api.post(f"{base}/selections", json=spec)
    assert answer.status_code == 201
    made = answer.json()
    assert made["documents"] > 0 or spec["rate"] == 0.01
    shared = ("id", "documents", "tokens", "perplexity_min", "perplexity_max", "start", "stop")
    assert [preview[name] for name in shared] == [made[name] for name in shared]
    (reported,) = [s for s in api.get(f"{base}/report").json()["selections"] if s["id"] == made["id"]]
    assert preview["domains"] == reported["domains"]
    lines = [json.loads(line) for line in api.get(f"{base}/selections/{made['id']}/manifest?format=jsonl").iter_lines()]
    assert len(lines) == preview["documents"]
    assert sum(line["n_tokens"] for line in lines) == preview["tokens"]
    bins = api.get(f"{base}/report").json()["histogram"]
    number = [math.floor(line["nll"] / line["n_tokens"] / 0.05) - round(bins["edges"][0] / 0.05) for line in lines]
    documents, tokens = ([0] * len(bins["documents"]) for _ in range(2))
    for at, line in zip(number, lines, strict=True):
        documents[at], tokens[at] = documents[at] + 1, tokens[at] + line["n_tokens"]
    assert (preview["bin_documents"], preview["bin_tokens"]) == (documents, tokens)


def test_a_preview_says_what_is_wrong(api: httpx.Client, pruned: dict[str, Any], make_request: Any) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    assert api.get(f"{base}/preview", params={"rate": 0}).status_code == 422
    assert api.get(f"{base}/preview", params={"criterion": "best"}).status_code == 422
    waiting = api.post("/v1/jobs", json=make_request().model_dump(mode="json")).json()["id"]
    answer = api.get(f"/v1/jobs/{waiting}/preview")
    assert answer.status_code == 409
    assert "queued" in answer.json()["detail"]
    for path in ("preview", "documents", "histogram", "workers"):
        assert api.get(f"/v1/jobs/nothing/{path}").status_code == 404


def test_documents_by_rank(api: httpx.Client, pruned: dict[str, Any], corpus: Path) -> None:
    base = f"/v1/jobs/{pruned['id']}/documents"
    found = api.get(base, params={"rank": 10, "count": 25}).json()
    assert found["documents"] == 120
    assert [row["rank"] for row in found["data"]] == list(range(10, 35))
    perplexities = [row["perplexity"] for row in found["data"]]
    assert perplexities == sorted(perplexities)
    for row in found["data"]:
        assert len(row["text"]) == row["characters"]
        assert row["file"].startswith(str(corpus))
    short = api.get(base, params={"rank": 119, "count": 5, "characters": 3}).json()["data"]
    assert [len(row["text"]) for row in short] == [3]
    assert short[0]["characters"] > 3
    assert api.get(base, params={"rank": 120}).json()["data"] == []


def test_documents_by_rank_in_a_domain(api: httpx.Client, pruned: dict[str, Any]) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    scored = [row for rank in range(0, 120, 25) for row in documents(api, base, rank=rank, count=25)["data"]]
    domains = api.get(f"{base}/report").json()["domains"]
    for row, about in enumerate(domains):
        own = [each for each in scored if each["domain"] == about["domain"]]
        found = documents(api, base, domain=row, rank=2, count=4)
        assert found["documents"] == about["documents"] == len(own)
        assert [each["rank"] for each in found["data"]] == list(range(2, 6))[: len(own) - 2]
        assert [(each["file"], each["row"], each["text"]) for each in found["data"]] == [
            (each["file"], each["row"], each["text"]) for each in own[2:6]
        ]
        assert found["data"][0]["percentile"] == 100 * 2 / len(own)
    answer = api.get(f"{base}/documents", params={"domain": len(domains)})
    assert answer.status_code == 422
    assert f"the report names {len(domains)} domains" in answer.json()["detail"]


def test_the_bands_of_large_domains_are_what_is_kept_of_them(api: httpx.Client, pruned: dict[str, Any]) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    spec = {"criterion": "medium", "rate": 0.3, "unit": "tokens", "within": "domain"}
    preview = api.get(f"{base}/preview", params=spec).json()
    assert len(preview["inside"]) == min(3, len(preview["domains"]))
    for row, inside in enumerate(preview["inside"]):
        kept = documents(api, base, domain=row, rank=inside["start"], count=inside["stop"] - inside["start"])
        ends = kept["data"][0]["perplexity"], kept["data"][-1]["perplexity"]
        assert ends == pytest.approx((inside["perplexity_min"], inside["perplexity_max"]))
        about = preview["domains"][row]
        counted = len(kept["data"]), sum(each["n_tokens"] for each in kept["data"])
        assert (inside["domain"], *counted) == (about["domain"], about["documents"], about["tokens"])


def test_inside_too_many_domains_only_what_is_made_is_shown(
    api: httpx.Client, pruned: dict[str, Any], start_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    spec = {"criterion": "medium", "rate": 0.3, "unit": "tokens", "within": "domain"}
    before = api.get(f"{base}/preview", params=spec).json()
    monkeypatch.setattr("service.jobs.explore._DOMAINS_INSIDE_MAX", 1)
    answer = api.get(f"{base}/preview", params=spec)
    assert answer.status_code == 422
    assert "make the selection to see it" in answer.json()["detail"]
    start_worker()
    assert api.post(f"{base}/selections", json=spec).status_code == 201
    uncounted = {"bin_documents": None, "bin_tokens": None}
    assert api.get(f"{base}/preview", params=spec).json() == before | uncounted


def documents(api: httpx.Client, base: str, **asked: int) -> dict[str, Any]:
    return api.get(f"{base}/documents", params=asked).json()  # type: ignore[no-any-return]


def test_a_document_whose_file_is_gone_is_still_listed(
    api: httpx.Client, make_request: Callable[..., JobRequest], work_off: Callable[[], None], tmp_path: Path
) -> None:
    request = make_request(write_corpus(tmp_path / "corpus", files=1))
    job = api.post("/v1/jobs", json=request.model_dump(mode="json")).json()["id"]
    work_off()
    (tmp_path / "corpus" / "part-0.parquet").unlink()
    (row,) = api.get(f"/v1/jobs/{job}/documents", params={"count": 1}).json()["data"]
    assert row["text"] is None
    assert "part-0.parquet" in row["text_error"]
    assert row["perplexity"] > 0


def test_the_histogram_grows_with_the_shards_and_ends_as_the_report_has_it(
    api: httpx.Client, make_request: Callable[..., JobRequest], worker: PoolWorker, work_off: Callable[[], None]
) -> None:
    job = api.post("/v1/jobs", json=make_request().model_dump(mode="json")).json()["id"]
    url = f"/v1/jobs/{job}/histogram"
    assert api.get(url).json()["histogram"] is None
    until(lambda: worker.once() and api.get(url).json()["documents"])
    part = api.get(url).json()
    assert (part["shards"], part["shards_done"], part["shards_total"]) == (1, 1, 3)
    assert sum(part["histogram"]["documents"]) == part["documents"] == 40
    work_off()
    whole = api.get(url).json()
    report = api.get(f"/v1/jobs/{job}/report").json()
    assert whole["histogram"] == report["histogram"]
    assert whole["documents"] == report["eligible"]["documents"]


def test_the_histogram_of_one_shard_grows_while_it_is_scored(
    api: httpx.Client, jobs: Jobs, make_request: Callable[..., JobRequest], tmp_path: Path, start_worker: Any
) -> None:
    job, _ = jobs.create(make_request(write_corpus(tmp_path / "one", files=1, documents=2_000, words=100)))
    start_worker()
    url = f"/v1/jobs/{job.id}/histogram"
    seen = until(lambda: (found := api.get(url).json())["documents"] and found)
    assert (seen["shards"], seen["shards_done"], seen["shards_total"]) == (0, 0, 1)
    assert sum(seen["histogram"]["documents"]) == seen["documents"] < jobs.get(job.id).progress.documents_total
    api.post(f"/v1/jobs/{job.id}/cancel")


def test_workers_and_their_time_are_shown(
    api: httpx.Client, make_request: Callable[..., JobRequest], jobs: Jobs, tmp_path: Path, start_worker: Any
) -> None:
    request = make_request(write_corpus(tmp_path / "slow", files=2, documents=100, words=400))
    job = api.post("/v1/jobs", json=request.model_dump(mode="json")).json()["id"]
    start_worker("the-worker")

    def scoring() -> dict[str, Any] | None:
        held = api.get(f"/v1/jobs/{job}/workers").json()["data"]
        return held[0] if held and held[0]["task"].startswith("scores:") and held[0]["device"] else None

    held = until(scoring)
    assert (held["worker"], held["device"], held["attempts"]) == ("the-worker", "cpu", 1)
    assert held["claimed_at"] <= held["seen_at"]
    progress = api.get(f"/v1/jobs/{job}").json()["progress"]
    assert progress["shards_leased"] <= 2  # the next one is read ahead
    ended = until(lambda: (j := api.get(f"/v1/jobs/{job}").json())["finished_at"] and j)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["progress"]["worker_seconds"] > 0
    assert ended["progress"]["gpu_seconds"] == 0
    until(
        lambda: api.get(f"/v1/jobs/{job}/workers").json()["data"] == []
    )  # the task that ended it is over a moment later


def test_progress_counts_what_is_under_way(jobs: Jobs, make_request: Callable[..., JobRequest]) -> None:
    queue = jobs.queue
    job, _ = jobs.create(make_request())
    files = files_of(jobs.workspace, job.id)
    summary = JobSummary(status="scoring", documents=120, shards=3, text_bytes=100_000)
    queue.submit(job.id, NodeTasks("scores", "gpu", [range(3)]), summary.model_dump_json())
    leases = [queue.claim(f"w{number}", ["gpu"]) for number in range(3)]
    first, second, third = (lease for lease in leases if lease is not None)
    for lease, rate in ((first, 300.0), (second, 100.0)):
        note = TaskNote(device="cuda", documents=10, tokens=1000, tokens_per_second=rate)
        queue.beat(lease, 500.0, note.model_dump_json())
    queue.fail(third, "a broken shard", delay_seconds=60)

    def progress() -> Progress:
        state = queue.state(job.id)
        assert state is not None
        return progress_of(files, state)

    now = progress()
    assert (now.shards_leased, now.shards_failed, now.documents_done, now.tokens_done) == (2, 1, 20, 2000)
    assert now.tokens_per_second == 400
    assert now.eta_seconds == (1000 * 120 / 10 - 2000) / 400
    assert now.waiting_for is None
    queue.done(first, Done(counters={"documents": 40, "tokens": 4000, "rejects": 1, "worker_ms": 1500, "gpu_ms": 1500}))
    queue.release(second, delay_seconds=60)
    now = progress()
    assert (now.shards_done, now.documents_done, now.tokens_done, now.rejects) == (1, 40, 4000, 1)
    assert now.worker_seconds == now.gpu_seconds == 1.5
    assert now.waiting_for == "A part of the work failed and is tried again soon. The error was: a broken shard"


def test_progress_of_a_training_counts_what_it_will_really_read(
    jobs: Jobs, make_request: Callable[..., JobRequest]
) -> None:
    queue = jobs.queue
    job, _ = jobs.create(make_request(reference={"train": {"tokens": 2_000_000}}))
    files = files_of(jobs.workspace, job.id)
    queue.submit(job.id, NodeTasks("model", "gpu", [range(1)]), JobSummary(status="training").model_dump_json())
    lease = queue.claim("w", ["gpu"])
    assert lease is not None

    def progress(note: TaskNote) -> Progress:
        queue.beat(lease, 500.0, note.model_dump_json())
        state = queue.state(job.id)
        assert state is not None
        return progress_of(files, state)

    reading = progress(TaskNote())
    assert (reading.training_tokens_done, reading.training_tokens_total) == (0, 2_000_000)
    assert reading.eta_seconds is None
    steps = progress(TaskNote(tokens=20_000, tokens_total=120_000, tokens_per_second=1_000))
    assert (steps.training_tokens_done, steps.training_tokens_total, steps.eta_seconds) == (20_000, 120_000, 100)


def test_long_documents_first_do_not_make_the_time_left_longer() -> None:
    """A file of 20 MB with 4,000 documents, two of them done; then half; then a whole shard."""
    begun = Progress(documents_total=4_000, documents_done=2, tokens_done=50_000, shards_total=4)
    assert tokens_left(begun, 0, 20_000_000) == 8_000_000 - 50_000
    half = begun.model_copy(update={"documents_done": 2_000, "tokens_done": 3_000_000})
    assert tokens_left(half, 0, 20_000_000) == 3_000_000
    one = half.model_copy(update={"shards_done": 1})
    assert tokens_left(one, 1_250_000, 20_000_000) == 2_000_000
    assert tokens_left(Progress(shards_total=4), 0, 0) is None
