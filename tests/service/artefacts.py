"""Where the artefacts of a job lie in its workspace, for tests that compare or damage them."""

from pruner.spec import SelectionSpec
from service.contract.schemas import Job
from service.kinds import index, report, selection
from service.kinds.job_files import JobFiles
from service.store.workspace import Workspace


def files_of(workspace: Workspace, job_id: str) -> JobFiles:
    record = workspace.job(job_id)
    assert record is not None
    return JobFiles(workspace, record)


def table_path(workspace: Workspace, job_id: str, name: str) -> str:
    """`scores.parquet`, `rejects.parquet`."""
    return f"{index.folder(files_of(workspace, job_id))}/{name}"


def report_path(workspace: Workspace, job_id: str) -> str:
    return report.path(files_of(workspace, job_id))


def manifest_path(workspace: Workspace, job_id: str, selection_id: str = "medium-0.5") -> str:
    files = files_of(workspace, job_id)
    spec = next((spec for spec in files.selections if spec.id == selection_id), SelectionSpec())
    return f"{selection.folder(files, spec)}/manifest.parquet"


def results(workspace: Workspace, job: Job) -> dict[str, bytes]:
    """Every file of a job that a user can download, by name; not those that are made on demand."""
    paths = {name: table_path(workspace, job.id, name) for name in ("scores.parquet", "rejects.parquet")}
    paths["report.json"] = report_path(workspace, job.id)
    paths |= {f"{made.id}/manifest.parquet": manifest_path(workspace, job.id, made.id) for made in job.selections}
    missing = [path for path in paths.values() if not workspace.storage.exists(path)]
    assert not missing, (missing, sorted(found.path for found in workspace.storage.files("")))
    return {name: workspace.storage.read_bytes(path) for name, path in paths.items()}
