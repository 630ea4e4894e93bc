"""The files of a scored job: manifests, rejects, scores, the report."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException

from pruner.report import Report
from pruner.select.write_index import read_files
from service.contract.network import job_path
from service.contract.schemas import TableFiles
from service.http.dependencies import JobId, JobsOf
from service.http.downloads import DOWNLOADED, describe, file_answers, send_file
from service.http.problems import responses
from service.http.tables import Format, JobTable, list_parts, send_part, send_table
from service.jobs.jobs import Jobs, not_there
from service.kinds import index, selection

router = APIRouter(tags=["files"])
SelectionId = Annotated[
    str, Path(max_length=200, pattern=r"^[A-Za-z0-9._-]+$", description="Such as `medium-0.5` or `high-0.1-edu`.")
]
Part = Annotated[int, Path(ge=0, description="Its number in the list of parts, from 0.")]


def _manifest(jobs: Jobs, job_id: str, selection_id: str) -> JobTable:
    """The manifest of a selection. Raises UnknownJob, HTTPException, and Conflict where it is not there."""
    job, files = jobs.files(job_id)
    spec = next((spec for spec in files.selections if spec.id == selection_id), None)
    if spec is None:
        raise HTTPException(404, f"job {job_id} has no selection {selection_id}")
    made = selection.find(files, spec)
    if made is None:
        raise not_there(job.status, selection_id)
    folder, url = selection.folder(files, spec), job_path(job_id, "selections", selection_id, "manifest")
    return JobTable(jobs.workspace.storage, folder, "manifest", made.files, f"manifest-{selection_id}", url)


def _index_table(jobs: Jobs, job_id: str, name: str) -> JobTable:
    """A table of a job's index. Raises UnknownJob, and Conflict where it is not there."""
    job, files = jobs.files(job_id)
    storage = jobs.workspace.storage
    try:
        folder = index.folder(files)
        tables = read_files(storage, folder).files
    except FileNotFoundError:
        raise not_there(job.status, name) from None
    return JobTable(storage, folder, name, tables, name, job_path(job_id, name))


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
    """The documents that a selection keeps; 409 for more than 10^8, whose manifest is a folder of parts."""
    return send_table(request, _manifest(jobs, job_id, selection_id), format)


@router.get("/v1/jobs/{job_id}/selections/{selection_id}/manifest/parts", responses=responses(404, 409, 422))
def list_manifest_parts(job_id: JobId, selection_id: SelectionId, jobs: JobsOf) -> TableFiles:
    """The files of a manifest: its parts in their order, or the only file."""
    return list_parts(_manifest(jobs, job_id, selection_id))


@router.head("/v1/jobs/{job_id}/selections/{selection_id}/manifest/parts/{part}", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/selections/{selection_id}/manifest/parts/{part}",
    responses=file_answers("parquet", "jsonl"),
    response_class=Response,
)
def download_manifest_part(
    job_id: JobId,
    selection_id: SelectionId,
    part: Part,
    request: Request,
    jobs: JobsOf,
    format: Format = "parquet",  # noqa: A002
) -> Response:
    """A part of a manifest."""
    return send_part(request, _manifest(jobs, job_id, selection_id), part, format)


@router.head("/v1/jobs/{job_id}/rejects", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/rejects", responses=file_answers("parquet", "jsonl"), response_class=Response)
def download_rejects(job_id: JobId, request: Request, jobs: JobsOf, format: Format = "parquet") -> Response:  # noqa: A002
    """The documents without a score, and why."""
    return send_table(request, _index_table(jobs, job_id, "rejects"), format)


@router.head("/v1/jobs/{job_id}/scores", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/scores", responses=file_answers("parquet"), response_class=Response)
def download_scores(
    job_id: JobId,
    request: Request,
    jobs: JobsOf,
    format: Literal["parquet"] = "parquet",  # noqa: A002
) -> Response:
    """Every document's score; 409 for more than 10^8 documents, whose table is a folder of parts."""
    return send_table(request, _index_table(jobs, job_id, "scores"), format)


@router.get("/v1/jobs/{job_id}/scores/parts", responses=responses(404, 409, 422))
def list_scores_parts(job_id: JobId, jobs: JobsOf) -> TableFiles:
    """The files of the table of scores: its parts in their order, or the only file."""
    return list_parts(_index_table(jobs, job_id, "scores"))


@router.head("/v1/jobs/{job_id}/scores/parts/{part}", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/scores/parts/{part}", responses=file_answers("parquet"), response_class=Response)
def download_scores_part(job_id: JobId, part: Part, request: Request, jobs: JobsOf) -> Response:
    """A part of the table of scores."""
    return send_part(request, _index_table(jobs, job_id, "scores"), part, "parquet")


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
