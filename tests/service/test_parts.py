"""Indexes and manifests that are made in parts are those that are made at once."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.select import selection as selections
from pruner.spec import SelectionSpec
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


@pytest.mark.parametrize(
    ("shards", "text", "sizes"),
    [(1, 0, [1]), (3, index.PART_BYTES, [3]), (5, 2 * index.PART_BYTES, [3, 2]), (2, 90 * index.PART_BYTES, [1, 1])],
)
def test_shards_share_a_part_by_their_text(shards: int, text: int, sizes: list[int]) -> None:
    groups = shard_groups(shards, text)
    assert [len(group) for group in groups] == sizes
    assert [shard for group in groups for shard in group] == list(range(shards))
