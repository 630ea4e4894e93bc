"""The files of a scored job: manifests, rejects, scores, the report."""

import hashlib
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request, Response
from starlette.exceptions import HTTPException

from service.http.dependencies import JobId, JobsOf
from service.http.downloads import MEDIA_TYPES, send_file
from service.http.problems import responses
from service.jobs.jobs import Jobs, not_there

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


def _file(jobs: Jobs, job_id: str, name: str) -> dict[str, Any]:
    """What is known of a file of a job. Raises UnknownJob, and Conflict where it is not there."""
    job = jobs.get(job_id)
    path = jobs.workspace.path(job_id, "downloads.json")
    if not jobs.workspace.storage.exists(path):
        raise not_there(job.status, name)
    about: dict[str, Any] = jobs.workspace.storage.read_json(path)[name]
    return about


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
    job = jobs.get(job_id)
    made = jobs.workspace.selection(job_id, selection_id)
    if made is None:
        if selection_id in {spec.id for spec in job.request.selections}:
            raise not_there(job.status, selection_id)
        raise HTTPException(404, f"job {job_id} has no selection {selection_id}")
    path = jobs.workspace.selection_path(job_id, selection_id, f"manifest.{format}")
    about = made["files"][f"manifest.{format}"]
    return send_file(request, jobs.workspace.storage, path, about, f"manifest-{selection_id}.{format}")


@router.head("/v1/jobs/{job_id}/rejects", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/rejects", responses=_answers("parquet", "jsonl"), response_class=Response)
def rejects(job_id: JobId, request: Request, jobs: JobsOf, format: Format = "parquet") -> Response:  # noqa: A002
    """The documents without a score, and why."""
    name = f"rejects.{format}"
    about = _file(jobs, job_id, name)
    return send_file(request, jobs.workspace.storage, jobs.workspace.path(job_id, name), about, name)


@router.head("/v1/jobs/{job_id}/scores", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/scores", responses=_answers("parquet"), response_class=Response)
def scores(
    job_id: JobId,
    request: Request,
    jobs: JobsOf,
    format: Literal["parquet"] = "parquet",  # noqa: A002
) -> Response:
    """Every document's score."""
    name = f"scores.{format}"
    about = _file(jobs, job_id, name)
    return send_file(request, jobs.workspace.storage, jobs.workspace.path(job_id, name), about, name)


@router.head("/v1/jobs/{job_id}/report", include_in_schema=False)
@router.get("/v1/jobs/{job_id}/report", responses=responses(404, 409), response_class=Response)
def report(job_id: JobId, jobs: JobsOf, request: Request) -> Response:
    """Counts, quantiles and histogram of perplexity, and the domains before and after each selection."""
    job = jobs.get(job_id)
    try:
        body = jobs.workspace.storage.read_bytes(jobs.workspace.path(job_id, "report.json"))
    except FileNotFoundError:
        raise not_there(job.status, "report") from None
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"ETag": etag})
    headers = {
        "ETag": etag,
        "Content-Disposition": 'attachment; filename="report.json"',
        "X-Content-Type-Options": "nosniff",
    }
    return Response(b"" if request.method == "HEAD" else body, media_type=MEDIA_TYPES["json"], headers=headers)
