"""Indexes and manifests that are made in parts are those that are made at once."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.ablation.pool import read_pool
from pruner.select import selection as selections
from pruner.spec import SelectionSpec
from pruner.tables import table_files
from service.commands.cli import main
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.kinds import index, selection
from service.kinds.index import shard_groups
from service.work.worker import Worker
from tests.service.artefacts import files_of

SELECTIONS = [
    {"criterion": "medium", "rate": 0.5},
    {"criterion": "low", "rate": 0.3, "unit": "tokens", "within": "domain"},
    {"criterion": "random", "rate": 0.4},
]


def made(jobs: Jobs, request: JobRequest, work_off: Callable[[], None]) -> dict[str, tuple[pa.Table, dict[str, Any]]]:
    """The manifest and the record of each selection of a job."""
    job, _ = jobs.create(request)
    work_off()
    files, storage = files_of(jobs.workspace, job.id), jobs.workspace.storage
    assert jobs.get(job.id).status == "succeeded"
    assert storage.list(f"{index.folder(files)}/parts") == []
    found = {}
    for spec in files.selections:
        folder, record = selection.folder(files, spec), selection.find(files, spec)
        assert record is not None
        with storage.open(f"{folder}/manifest.parquet") as source:
            found[spec.id] = pq.read_table(source), record.model_dump(exclude={"files"})
    return found


def test_a_job_in_parts_has_the_same_results(
    jobs: Jobs,
    make_request: Callable[..., JobRequest],
    work_off: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = make_request(selections=SELECTIONS)
    whole = made(jobs, request, work_off)
    for kind in ("index", "order", "selection", "report"):
        jobs.workspace.storage.remove_tree(kind)
    monkeypatch.setattr(index, "PART_BYTES", 1)
    monkeypatch.setattr(selections, "PART_ROWS", 5)
    tasks: list[str] = []
    run = Worker._run

    def noted(self: Worker, lease: Any, prepared: Any) -> None:
        tasks.append(lease.task.partition(":")[0])
        run(self, lease, prepared)

    monkeypatch.setattr(Worker, "_run", noted)
    in_parts = made(jobs, request, work_off)
    assert tasks.count("index/parts") > 1
    assert all(tasks.count(f"selection/{SelectionSpec(**spec).id}/parts") > 1 for spec in SELECTIONS)
    assert list(in_parts) == list(whole)
    for name, (table, record) in whole.items():
        assert in_parts[name][0].equals(table, check_metadata=True)
        assert in_parts[name][1] == record


@pytest.fixture
def in_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of more than 30 rows are folders."""
    monkeypatch.setattr(table_files, "ONE_FILE_ROWS", 30)
    monkeypatch.setattr(table_files, "PART_FILE_ROWS", 20)
    monkeypatch.setattr(index, "PART_BYTES", 1)
    monkeypatch.setattr(index, "VERSION", -1)  # all is made anew
    monkeypatch.setattr(selections, "PART_ROWS", 5)


def parts(api: httpx.Client, url: str, kind: str) -> list[bytes]:
    """The parts that the API lists, each checked against its hash."""
    found = []
    for part in api.get(f"{url}/parts").json()["data"]:
        answer = api.get(part["url"])
        assert hashlib.sha256(answer.content).hexdigest() == part["sha256"] == answer.headers["etag"].strip('"')
        assert len(answer.content) == part["bytes"]
        found.append(api.get(part["url"], params={"format": kind}).content)
    return found


def table(found: list[bytes]) -> pa.Table:
    return pa.concat_tables([pq.read_table(io.BytesIO(part)) for part in found]).replace_schema_metadata(None)


def test_a_large_job_has_the_same_rows_in_folders(
    api: httpx.Client,
    jobs: Jobs,
    make_request: Callable[..., JobRequest],
    work_off: Callable[[], None],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    body = make_request(selections=[*SELECTIONS, {"criterion": "low", "rate": 0.1}]).model_dump(mode="json")

    def run() -> tuple[str, dict[str, Any]]:
        job_id = api.post("/v1/jobs", json=body).json()["id"]
        work_off()
        exported = api.post(f"/v1/jobs/{job_id}/selections/medium-0.5/exports", json={"scores": True}).json()
        work_off()
        files = api.get(f"/v1/jobs/{job_id}/exports/{exported['id']}").json()["files"]
        texts = api.get(f"/v1/jobs/{job_id}/documents", params={"rank": 50, "count": 4}).json()
        manifest = f"{selection.folder(files_of(jobs.workspace, job_id), SelectionSpec())}/manifest.parquet"
        numbers = {file.url: number for number, file in enumerate(files_of(jobs.workspace, job_id).plan.files)}
        pool = read_pool(jobs.workspace.storage, manifest, numbers, lambda: None)
        return job_id, {
            "export": files,
            "documents": texts,
            "pool": [pool.file.tolist(), pool.row.tolist(), pool.tokens],
        }

    first, seen = run()
    made = api.get(f"/v1/jobs/{first}").json()["selections"]
    assert [one["parts"] for one in made] == [None] * 4
    urls = {one["id"]: one["manifest_url"].replace(first, "{}") for one in made} | {"scores": "/v1/jobs/{}/scores"}
    whole = {name: table(parts(api, url.format(first), "parquet")) for name, url in urls.items()}
    assert [part["url"] for part in api.get(made[0]["manifest_url"] + "/parts").json()["data"]] == [
        made[0]["manifest_url"]
    ]
    assert api.get(f"{made[0]['manifest_url']}/parts/0").status_code == 404
    request.getfixturevalue("in_folders")
    second, seen_in_folders = run()
    assert seen_in_folders == seen
    for one in api.get(f"/v1/jobs/{second}").json()["selections"]:
        url = one["manifest_url"]
        found = parts(api, url, "parquet")
        assert one["parts"] == (len(found) if one["documents"] > 30 else None)
        assert table(found).equals(whole[one["id"]])
        provenance = json.loads(pq.read_metadata(io.BytesIO(found[-1])).metadata[b"winnow"])
        assert provenance["percentile"] == ("exact" if one["parts"] is None else "exact to 1/65,536 of the documents")
        lines = [json.loads(line) for part in parts(api, url, "jsonl") for line in part.splitlines()]
        assert lines == whole[one["id"]].to_pylist()
        for kind in ("parquet", "jsonl"):
            answer = api.get(url, params={"format": kind})
            assert answer.status_code == (200 if one["parts"] is None else 409)
            assert one["parts"] is None or f"{url}/parts" in answer.json()["detail"]
    assert len(parts(api, f"/v1/jobs/{second}/scores", "parquet")) > 1
    assert table(parts(api, f"/v1/jobs/{second}/scores", "parquet")).equals(whole["scores"])
    assert api.get(f"/v1/jobs/{second}/scores").status_code == 409
    for kind in ("jsonl", "parquet"):
        stale = tmp_path / "manifest-medium-0.5.parquet" / "part-00099.parquet"
        stale.parent.mkdir(exist_ok=True)
        stale.write_bytes(b"of an earlier download")
        given = ["--server", str(api.base_url), "--out", str(tmp_path), "--scores", "--format", kind]
        assert main(["download", second, *given]) == 0
    names = [path.name for path in tmp_path.iterdir() if path.name.startswith(("manifest-low-0.1", "scores"))]
    assert sorted(names) == ["manifest-low-0.1.jsonl", "manifest-low-0.1.parquet", "scores.parquet"]
    for name in ("manifest-medium-0.5", "scores"):
        saved = pq.read_table(tmp_path / f"{name}.parquet").replace_schema_metadata(None)
        assert saved.equals(whole[name.removeprefix("manifest-")])
    lines = [path.read_bytes() for path in sorted((tmp_path / "manifest-medium-0.5.jsonl").iterdir())]
    assert [json.loads(line) for line in b"".join(lines).splitlines()] == whole["medium-0.5"].to_pylist()
    assert api.get(f"/v1/jobs/{second}/rejects").status_code == 200


@pytest.mark.parametrize(
    ("shards", "text", "sizes"),
    [(1, 0, [1]), (3, index.PART_BYTES, [3]), (5, 2 * index.PART_BYTES, [3, 2]), (2, 90 * index.PART_BYTES, [1, 1])],
)
def test_shards_share_a_part_by_their_text(shards: int, text: int, sizes: list[int]) -> None:
    groups = shard_groups(shards, text)
    assert [len(group) for group in groups] == sizes
    assert [shard for group in groups for shard in group] == list(range(shards))
