"""Selections at random and by NLL per byte in the service: over HTTP, in the shell, kept and removed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from service.commands.cli import main
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.kinds import order
from service.run.retention import clean
from service.run.settings import RetentionPolicy
from service.work.pool_worker import PoolWorker
from tests.pruner.test_order import plain_hash
from tests.service.artefacts import files_of, results, table_path
from tests.service.pool import write_corpus

MakeRequest = Callable[..., JobRequest]
WorkOff = Callable[[], None]
Rows = list[dict[str, Any]]
BYTE: dict[str, Any] = {"criterion": "low", "rate": 0.25, "per": "byte"}
DRAWN: dict[str, Any] = {"criterion": "random", "rate": 0.4, "seed": 3}


def rows(api: httpx.Client, url: str) -> Rows:
    return [json.loads(line) for line in api.get(f"{url}?format=jsonl").iter_lines()]


def places(found: Rows) -> list[tuple[str, int]]:
    return [(row["file"], row["row"]) for row in found]


def all_scores(jobs: Jobs, job_id: str) -> Rows:
    with jobs.workspace.storage.open(table_path(jobs.workspace, job_id, "scores.parquet")) as source:
        return list(pq.read_table(source).to_pylist())


def hashes(scores: Rows, seed: int) -> list[int]:
    """The hash of each document; the files of the corpus are in plan order."""
    files = sorted({row["file"] for row in scores})
    return [plain_hash(seed, files.index(row["file"]), row["row"]) for row in scores]


@pytest.mark.every_workspace
def test_a_job_with_other_orders_from_its_request_to_its_manifests(
    jobs: Jobs, api: httpx.Client, make_request: MakeRequest, work_off: WorkOff
) -> None:
    asked = [{"criterion": "medium", "rate": 0.5}, BYTE, DRAWN, {"criterion": "random"}]
    body = make_request().model_dump(mode="json") | {"selections": asked}
    job = api.post("/v1/jobs", json=body).json()
    defaults = {"rate": 0.5, "unit": "documents", "within": None}
    assert job["request"]["selections"] == [
        defaults | {"criterion": "medium"},
        defaults | BYTE,
        defaults | DRAWN,
        defaults | {"criterion": "random", "seed": 0},
    ]
    work_off()
    done = api.get(f"/v1/jobs/{job['id']}").json()
    assert done["status"] == "succeeded", done["error"]
    made = {each["id"]: each for each in done["selections"]}
    assert list(made) == ["medium-0.5", "low-0.25-byte", "random-0.4-seed3", "random-0.5"]
    assert (made["low-0.25-byte"]["per"], made["random-0.4-seed3"]["seed"], made["random-0.5"]["seed"]) == (
        "byte",
        3,
        0,
    )
    assert not {"per", "seed"} & set(made["medium-0.5"])
    scores = all_scores(jobs, job["id"])
    for name, key, kept in (
        ("low-0.25-byte", [row["nll"] / row["n_bytes"] for row in scores], 30),
        ("random-0.4-seed3", hashes(scores, 3), 48),
        ("random-0.5", hashes(scores, 0), 60),
    ):
        ranks = sorted(range(120), key=lambda place: (key[place], place))[:kept]
        found = rows(api, made[name]["manifest_url"])
        assert places(found) == [places(scores)[place] for place in sorted(ranks)]
        assert [row["percentile"] for row in found] == [100 * ranks.index(place) / 120 for place in sorted(ranks)]
        values = [row["perplexity"] for row in found]
        about = made[name]
        assert (about["documents"], about["start"], about["stop"]) == (kept, 0, kept)
        assert (about["perplexity_min"], about["perplexity_max"]) == pytest.approx((min(values), max(values)))
    reported = {each["id"]: each for each in api.get(f"/v1/jobs/{job['id']}/report").json()["selections"]}
    assert (reported["low-0.25-byte"]["per"], reported["random-0.5"]["seed"]) == ("byte", 0)
    assert not {"per", "seed"} & set(reported["medium-0.5"])
    assert api.post("/v1/jobs", json=done["request"]).json()["request"] == done["request"]


@pytest.mark.parametrize(("spec", "ranked"), [(BYTE, {"per": "byte"}), (DRAWN, {"seed": 3})])
def test_an_order_is_previewed_once_there_is_a_selection_in_it(
    api: httpx.Client,
    pruned: dict[str, Any],
    start_worker: Callable[..., Any],
    spec: dict[str, Any],
    ranked: dict[str, Any],
) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    for path, params in (("preview", spec), ("documents", ranked)):
        answer = api.get(f"{base}/{path}", params=params)
        assert answer.status_code == 409
        assert "make a selection in this order" in answer.json()["detail"]
    start_worker(resources=("light",))  # none that could score
    made = api.post(f"{base}/selections", json=spec)
    assert made.status_code == 201
    assert api.post(f"{base}/selections", json=spec).status_code == 200
    shared = ("id", "documents", "tokens", "perplexity_min", "perplexity_max", "start", "stop", *ranked)
    preview = api.get(f"{base}/preview", params=spec).json()
    assert [preview[name] for name in shared] == [made.json()[name] for name in shared]
    other = spec | {"rate": 0.3, "unit": "tokens", "within": "domain"}
    preview = api.get(f"{base}/preview", params=other).json()
    made = api.post(f"{base}/selections", json=other)
    assert [preview[name] for name in shared] == [made.json()[name] for name in shared]
    (reported,) = [s for s in api.get(f"{base}/report").json()["selections"] if s["id"] == made.json()["id"]]
    assert preview["domains"] == reported["domains"]
    assert len(preview["inside"]) == 3
    kept = places(rows(api, f"{base}/selections/{api.get(f'{base}/preview', params=spec).json()['id']}/manifest"))
    first = api.get(f"{base}/documents", params=ranked | {"count": 25}).json()["data"]
    assert [row["rank"] for row in first] == list(range(25))
    assert set(places(first)) <= set(kept)
    assert all(row["text"] for row in first)


def test_orders_that_do_not_fit_are_refused(api: httpx.Client, pruned: dict[str, Any]) -> None:
    base = f"/v1/jobs/{pruned['id']}"
    for spec, said in (
        ({"criterion": "random", "per": "byte"}, "leave out 'per'"),
        ({"criterion": "low", "seed": 3}, "leave out 'seed'"),
        ({"criterion": "random", "seed": -1}, "seed must be at least 0"),
        ({"per": "token"}, "per must be 'byte'"),
    ):
        for answer in (api.post(f"{base}/selections", json=spec), api.get(f"{base}/preview", params=spec)):
            assert answer.status_code == 422
            assert said in answer.json()["detail"]
    both = api.get(f"{base}/documents", params={"per": "byte", "seed": 3})
    assert (both.status_code, "give one of them" in both.json()["detail"]) == (422, True)


def test_one_sort_serves_all_selections_of_an_order(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    asked = [BYTE, BYTE | {"criterion": "high"}, BYTE | {"unit": "tokens"}, DRAWN, DRAWN | {"rate": 0.1}]
    made = set()
    for selections in (asked, [BYTE | {"rate": 0.1}], [DRAWN, {"criterion": "low"}]):
        job, _ = jobs.create(make_request(selections=selections))
        work_off()
        assert jobs.get(job.id).status == "succeeded"
        made.add(tuple(sorted((file.path, file.modified) for file in jobs.workspace.storage.files("order"))))
    assert len(made) == 1
    assert len(jobs.workspace.storage.list("order")) == 2


def test_a_killed_order_is_made_again_with_the_same_bytes(
    jobs: Jobs, make_request: MakeRequest, worker: PoolWorker, work_off: WorkOff
) -> None:
    job, _ = jobs.create(make_request(selections=[BYTE, DRAWN]))
    work_off()
    expected = results(jobs.workspace, jobs.get(job.id))
    storage = jobs.workspace.storage
    arrays = {file.path: storage.read_bytes(file.path) for file in storage.files("order")}
    for number, path in enumerate(sorted(arrays)):  # a kill leaves those that were written before
        if number % 2 or path.endswith("order.json"):
            storage.remove(path)
    for kind in ("selection", "report"):
        for file in list(storage.files(kind)):
            storage.remove(file.path)
    jobs.lifecycle.advance(job.id)
    work_off()
    assert {file.path: storage.read_bytes(file.path) for file in storage.files("order")} == arrays
    assert results(jobs.workspace, jobs.get(job.id)) == expected


def test_an_order_goes_with_the_last_job_that_has_it(jobs: Jobs, make_request: MakeRequest, work_off: WorkOff) -> None:
    job, _ = jobs.create(make_request(selections=[BYTE, DRAWN]))
    work_off()
    (byte, drawn) = (spec.order for spec in files_of(jobs.workspace, job.id).selections)
    made = {order.folder(files_of(jobs.workspace, job.id), each) for each in (byte, drawn)}
    clean(jobs.workspace, RetentionPolicy(days=1), jobs.queue.forget)
    assert {f"order/{name}" for name in jobs.workspace.storage.list("order")} == made
    clean(jobs.workspace, RetentionPolicy(bytes=0), jobs.queue.forget)
    assert jobs.workspace.storage.list("order") == []


def test_a_corpus_of_rejects_fails_with_the_same_words(
    jobs: Jobs, make_request: MakeRequest, work_off: WorkOff, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": null, "id": 1, "domain": 1}\n{"text": ""}\n')
    said = set()
    for selection in ({"criterion": "low"}, BYTE, DRAWN):
        job, _ = jobs.create(make_request(tmp_path / "a.jsonl", selections=[selection]))
        work_off()
        ended = jobs.get(job.id)
        assert ended.error is not None
        said.add((ended.status, ended.error.status, ended.error.detail))
    ((status, code, detail),) = said
    assert (status, code, "no document of 2 has a score" in detail) == ("failed", 422, True)


def test_a_sweep_from_the_shell(tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", files=2), tmp_path / "out"
    common = [
        str(corpus),
        "--reference",
        str(reference),
        "--device",
        "cpu",
        "--id-field",
        "id",
        "--domain-field",
        "domain",
    ]
    flags = ["--select", "low", "--select", "random", "--rate", "0.5", "--rate", "0.25"]
    flags += ["--per", "byte", "--random-seed", "3"]
    assert main(["prune", *common, *flags, "--out", str(out), "--report", str(tmp_path / "report.html"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    ids = ["low-0.5-byte", "low-0.25-byte", "random-0.5-seed3", "random-0.25-seed3"]
    assert [made["id"] for made in said["selections"]] == ids
    report = json.loads((out / "report.json").read_text())
    assert [made["id"] for made in report["selections"]] == ids
    assert {path.name for path in out.glob("manifest-*")} == {f"manifest-{name}.parquet" for name in ids}
    scores = pq.read_table(out / "scores" / "scores.parquet").to_pylist()
    key = hashes(scores, 3)
    kept = sorted(sorted(range(80), key=lambda place: key[place])[:20])
    found = pq.read_table(out / "manifest-random-0.25-seed3.parquet").to_pylist()
    assert places(found) == [places(scores)[place] for place in kept]
    page = (tmp_path / "report.html").read_text()
    assert "drawn at random with seed 3" in page
    assert "the most predictable by NLL per byte" in page
    assert main(["prune", *common, "--select", "random", "--out", str(out)]) == 0
    assert "random-0.5" in capsys.readouterr().out
    assert {path.name for path in out.glob("manifest-*")} == {f"manifest-{n}.parquet" for n in [*ids, "random-0.5"]}
    for name, flags in (("random-0.25-seed3", "--random-seed 3"), ("low-0.25-byte", "--per byte")):
        exported = tmp_path / name
        assert main(["export", str(out), "--selection", name, "--out", str(exported)]) == 0
        kept_here = pq.read_table(out / f"manifest-{name}.parquet")["id"].to_pylist()
        assert [i for f in sorted(exported.glob("*.parquet")) for i in pq.read_table(f)["id"].to_pylist()] == kept_here
        assert f"--rate 0.25 --unit documents {flags} " in (exported / "README.md").read_text()
