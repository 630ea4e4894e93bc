"""The files of a scored job: manifests, rejects, scores, the report."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException

from pruner.report import Report
from pruner.select.write_index import read_files
from pruner.tables.json_lines import as_json_lines
from service.http.dependencies import JobId, JobsOf
from service.http.downloads import DOWNLOADED, describe, file_answers, send_file
from service.jobs.jobs import Jobs, not_there
from service.kinds import index, selection

router = APIRouter(tags=["files"])
Format = Literal["parquet", "jsonl"]
SelectionId = Annotated[
    str, Path(max_length=200, pattern=r"^[A-Za-z0-9._-]+$", description="Such as `medium-0.5` or `high-0.1-edu`.")
]


def _index_table(request: Request, jobs: Jobs, job_id: str, table: str, kind: Format) -> Response:
    """A table of a job's index. Raises UnknownJob, and Conflict where it is not there."""
    job, files = jobs.files(job_id)
    name, storage = f"{table}.{kind}", jobs.workspace.storage
    try:
        folder = index.folder(files)
        tables = read_files(storage, folder).files
        about = tables[name] if kind == "parquet" else as_json_lines(storage, folder, table)
    except FileNotFoundError:
        raise not_there(job.status, name) from None
    return send_file(request, storage, f"{folder}/{name}", about, name)


@router.head("/v1/jobs/{job_id}/selections/{selection_id}/manifest", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/selections/{selection_id}/manifest",
    responses=file_answers("parquet", "jsonl"),
    response_class=Response,
)
def download_manifest(
    job_id: JobId,
    selection_id: SelectionId,
    request: Request,
    jobs: JobsOf,
    format: Format = "parquet",  # noqa: A002
) -> Response:
    """The documents that a selection keeps."""
    job, files = jobs.files(job_id)
    spec = next((spec for spec in files.selections if spec.id == selection_id), None)
    if spec is None:
        raise HTTPException(404, f"job {job_id} has no selection {selection_id}")
    made = selection.find(files, spec)
    if made is None:
        raise not_there(job.status, selection_id)
    storage, folder = jobs.workspace.storage, selection.folder(files, spec)
    name = f"manifest.{format}"
    about = made.files[name] if format == "parquet" else as_json_lines(storage, folder, "manifest")
    return send_file(request, storage, f"{folder}/{name}", about, f"manifest-{selection_id}.{format}")


@router.head("/v1/jobs/{job_id}/rejects", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/rejects", responses=file_answers("parquet", "jsonl"), response_class=Response)
def download_rejects(job_id: JobId, request: Request, jobs: JobsOf, format: Format = "parquet") -> Response:  # noqa: A002
    """The documents without a score, and why."""
    return _index_table(request, jobs, job_id, "rejects", format)


@router.head("/v1/jobs/{job_id}/scores", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/scores", responses=file_answers("parquet"), response_class=Response)
def download_scores(
    job_id: JobId,
    request: Request,
    jobs: JobsOf,
    format: Literal["parquet"] = "parquet",  # noqa: A002
) -> Response:
    """Every document's score."""
    return _index_table(request, jobs, job_id, "scores", format)


@router.head("/v1/jobs/{job_id}/report", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/report",
    responses={200: {"model": Report, "description": "The report"}, **DOWNLOADED},
    response_class=Response,
)
def get_report(job_id: JobId, jobs: JobsOf, request: Request) -> Response:
    """Counts, quantiles and histogram of perplexity, and the domains before and after each selection."""
    job, path = jobs.get(job_id), jobs.report_path(job_id)
    if path is None:
        raise not_there(job.status, "report")
    storage = jobs.workspace.storage
    return send_file(request, storage, path, describe(storage, path), "report.json")
