"""Workspaces of each format version: read, or refused with a sentence that says what to do."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from pruner.errors import InputError
from pruner.spec import SelectionSpec
from service.jobs import explore
from service.jobs.jobs import Jobs
from service.kinds import index, order, scores, selection
from service.store.workspace import Workspace
from tests.pruner.scored import write_selection
from tests.service.artefacts import files_of, manifest_path

WORKSPACES = Path(__file__).parent / "workspaces"
JOB = "b88ac0eecf421ebb3559"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A workspace of format 2 with a job that has ended; its corpus and its reference are gone."""
    shutil.copytree(WORKSPACES / "format-2", tmp_path / "workspace")
    return Workspace(str(tmp_path / "workspace"))


def test_a_workspace_of_format_2_is_read(jobs: Jobs, api: httpx.Client, work_off: Callable[[], None]) -> None:
    (job,) = jobs.page().data
    assert (job.id, job.status, job.progress.documents_done) == (JOB, "succeeded", 12)
    assert [made.id for made in job.selections] == ["medium-0.5", "low-0.25-domain"]
    for path in ("scores", "rejects", "report", "selections/medium-0.5/manifest"):
        assert api.get(f"/v1/jobs/{JOB}/{path}").status_code == 200
    assert "Explore a selection" in api.get(f"/jobs/{JOB}").text
    assert explore.preview(jobs, JOB, SelectionSpec(criterion="high", rate=0.5)).documents == 6
    jobs.add_selection(JOB, SelectionSpec(criterion="high", rate=0.5))
    work_off()
    made = jobs.selection(JOB, "high-0.5")
    assert made is not None
    assert made.documents == 6


def test_results_stay_where_they_are_when_a_later_version_scores_anew(
    jobs: Jobs, work_off: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifest_path(jobs.workspace, JOB)
    monkeypatch.setattr(scores, "ENGINE", scores.ENGINE + 1)
    jobs.add_selection(JOB, SelectionSpec(criterion="high", rate=0.5))
    work_off()
    assert manifest_path(jobs.workspace, JOB) == before
    assert index.find(files_of(jobs.workspace, JOB)) is not None
    assert [made.id for made in jobs.get(JOB).selections] == ["medium-0.5", "low-0.25-domain", "high-0.5"]
    assert jobs.get(JOB).status == "succeeded"


def test_a_workspace_of_0_1_0_is_refused(tmp_path: Path, redis: Any) -> None:
    shutil.copytree(WORKSPACES / "format-1", tmp_path / "old")
    with pytest.raises(InputError, match=r"0\.1\.0.*Choose a new folder"):
        Jobs(Workspace(str(tmp_path / "old")), redis)


@pytest.mark.parametrize("name", ["workspace.json", f"jobs/{JOB}/job.json", f"jobs/{JOB}/outcome.json"])
def test_a_later_format_is_refused_with_the_name_of_the_file(jobs: Jobs, tmp_path: Path, name: str) -> None:
    file = tmp_path / "workspace" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 99}))
    workspace = Workspace(str(tmp_path / "workspace"))
    with pytest.raises(InputError, match=f"{name}: has format 99"):
        _ = (workspace.id, workspace.job(JOB), workspace.outcome(JOB))


def test_selections_by_token_are_what_they_were_before_there_were_other_orders(jobs: Jobs) -> None:
    """The job's selections were made by an earlier version: the same keys, records and tables come out now."""
    files, storage = files_of(jobs.workspace, JOB), jobs.workspace.storage
    made, found = {name: f"selection/{name}" for name in storage.list("selection")}, index.find(files)
    assert found is not None
    assert {selection.folder(files, spec) for spec in files.selections} == set(made.values())
    for spec in files.selections:
        folder, folders = selection.folder(files, spec), (index.folder(files), order.folder(files, spec.order))
        write_selection(storage, *folders, "again", spec, found.provenance)
        before, after = (storage.read_bytes(f"{at}/manifest.parquet") for at in (folder, "again"))
        tables = [pq.read_table(io.BytesIO(data)) for data in (before, after)]
        assert tables[0].equals(tables[1])
        about = [json.loads(table.schema.metadata[b"winnow"]) for table in tables]
        assert about[0] | {"percentile": "exact"} == about[1]  # which the earlier version did not say
        records = [storage.read_json(f"{at}/selection.json") for at in (folder, "again")]
        assert {name: value for name, value in records[0].items() if name != "files"} == {
            name: value for name, value in records[1].items() if name != "files"
        }


def test_a_job_of_before_can_be_selected_from_by_byte(jobs: Jobs, work_off: Callable[[], None]) -> None:
    jobs.add_selection(JOB, SelectionSpec(criterion="low", per="byte"))
    work_off()
    made = jobs.selection(JOB, "low-0.5-byte")
    assert made is not None
    assert made.documents == 6
