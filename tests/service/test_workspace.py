"""The workspace's promises: what is written first stands, names stay inside."""

from datetime import datetime, timezone
from pathlib import Path

import pytest

from pruner.errors import InputError
from pruner.spec import CorpusSpec, SelectionSpec
from service.contract.schemas import JobRequest, Progress
from service.store.records import Ended, JobRecord, Outcome
from service.store.workspace import Workspace, digest

pytestmark = pytest.mark.every_workspace
NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
RECORD = JobRecord(id="a", created_at=NOW, request=JobRequest(corpus=CorpusSpec(paths=("/x",))))


def outcome(status: Ended) -> Outcome:
    return Outcome(status=status, started_at=None, finished_at=NOW, progress=Progress())


def test_a_workspace_keeps_its_name_wherever_it_is_reached(tmp_path: Path) -> None:
    first = Workspace(str(tmp_path / "here")).id
    (tmp_path / "there").symlink_to(tmp_path / "here")
    assert Workspace(str(tmp_path / "there")).id == first
    assert Workspace(str(tmp_path / "elsewhere")).id != first


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format": 2}', b"\xff"])
def test_a_damaged_name_of_a_workspace_is_said_to_be_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "workspace.json").write_bytes(data)
    with pytest.raises(InputError, match=r"workspace\.json: "):
        assert Workspace(str(tmp_path)).id


def test_a_job_is_accepted_once(workspace: Workspace) -> None:
    assert workspace.create_job(RECORD)
    assert not workspace.create_job(RECORD.model_copy(update={"created_at": datetime.now(timezone.utc)}))
    assert workspace.job("a") == RECORD
    assert workspace.jobs() == ["a"]


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "a.b", "ä", "a\0"])
def test_no_name_leads_out_of_the_workspace(workspace: Workspace, name: str) -> None:
    workspace.create_job(RECORD)
    assert workspace.job(name) is None


def test_the_first_outcome_stands(workspace: Workspace) -> None:
    workspace.create_job(RECORD)
    assert workspace.end("a", outcome("cancelled")).status == "cancelled"
    assert workspace.end("a", outcome("succeeded")).status == "cancelled"
    assert workspace.storage.list("jobs/a") == ["job.json", "outcome.json"]


def test_selections_asked_for_later_follow_those_of_the_request(workspace: Workspace) -> None:
    workspace.create_job(RECORD)
    for spec in (SelectionSpec(criterion="low", rate=0.1), SelectionSpec(criterion="high", rate=0.1), SelectionSpec()):
        workspace.want("a", spec)
    assert [spec.id for spec in workspace.wanted(RECORD)] == ["medium-0.5", "high-0.1", "low-0.1"]


def test_digests_tell_values_and_their_borders_apart() -> None:
    assert len({digest("ab", "c"), digest("a", "bc"), digest("abc"), digest(["ab", "c"]), digest(None)}) == 5
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
