"""The files of a scored job: manifests, rejects, scores, the report."""

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException

from service.http.dependencies import JobId, JobsOf
from service.http.downloads import MEDIA_TYPES, send_file
from service.http.problems import responses
from service.jobs.downloads import download
from service.jobs.jobs import Jobs, not_there
from service.kinds import index, selection

router = APIRouter(tags=["files"])
Format = Literal["parquet", "jsonl"]
SelectionId = Annotated[str, Path(max_length=100, pattern=r"^[a-z0-9.-]+$", description="Such as `medium-0.5`.")]


def _answers(*formats: str) -> dict[int | str, dict[str, Any]]:
    body = {"schema": {"type": "string", "format": "binary"}}
    content = {MEDIA_TYPES[name]: body for name in formats}
    return {
        200: {"description": "The file", "content": content},
        206: {"description": "The range that was asked for", "content": content},
        304: {"description": "The file is as the ETag says"},
        **responses(404, 409, 416, 422),
    }


def _table(request: Request, jobs: Jobs, job_id: str, table: str, kind: Format) -> Response:
    """A table of a job's index. Raises UnknownJob, and Conflict where it is not there."""
    job, files = jobs.files(job_id)
    name = f"{table}.{kind}"
    try:
        folder = index.folder(files)
        about = download(jobs.workspace.storage, folder, table, kind)
    except FileNotFoundError:
        raise not_there(job.status, name) from None
    return send_file(request, jobs.workspace.storage, f"{folder}/{name}", about, name)


@router.head("/v1/jobs/{job_id}/selections/{selection_id}/manifest", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/selections/{selection_id}/manifest",
    responses=_answers("parquet", "jsonl"),
    response_class=Response,
)
def manifest(
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
    if selection.find(files, spec) is None:
        raise not_there(job.status, selection_id)
    storage, folder = jobs.workspace.storage, selection.folder(files, spec)
    about = download(storage, folder, "manifest", format)
    return send_file(request, storage, f"{folder}/manifest.{format}", about, f"manifest-{selection_id}.{format}")


@router.head("/v1/jobs/{job_id}/rejects", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/rejects", responses=_answers("parquet", "jsonl"), response_class=Response)
def rejects(job_id: JobId, request: Request, jobs: JobsOf, format: Format = "parquet") -> Response:  # noqa: A002
    """The documents without a score, and why."""
    return _table(request, jobs, job_id, "rejects", format)


@router.head("/v1/jobs/{job_id}/scores", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/scores", responses=_answers("parquet"), response_class=Response)
def scores(
    job_id: JobId,
    request: Request,
    jobs: JobsOf,
    format: Literal["parquet"] = "parquet",  # noqa: A002
) -> Response:
    """Every document's score."""
    return _table(request, jobs, job_id, "scores", format)


@router.head("/v1/jobs/{job_id}/report", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/report", responses=responses(404, 409), response_class=Response)
def report(job_id: JobId, jobs: JobsOf, request: Request) -> Response:
    """Counts, quantiles and histogram of perplexity, and the domains before and after each selection."""
    job, path = jobs.get(job_id), jobs.report_path(job_id)
    if path is None:
        raise not_there(job.status, "report")
    body = jobs.workspace.storage.read_bytes(path)
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    headers = {
        "ETag": etag,
        "Content-Disposition": 'attachment; filename="report.json"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(b"" if request.method == "HEAD" else body, media_type=MEDIA_TYPES["json"], headers=headers)
