"""Jobs: create, get, list, cancel."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from starlette.exceptions import HTTPException

from service.contract.names import Status
from service.contract.schemas import Job, JobPage, JobRequest
from service.http.dependencies import CallerOf, JobId, JobsOf, RulesOf, json_body
from service.http.problems import responses

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/jobs", status_code=202, dependencies=[Depends(json_body)], responses=responses(400, 413, 415, 422, 429, 507)
)
def create_job(
    request: JobRequest,
    jobs: JobsOf,
    caller: CallerOf,
    rules: RulesOf,
    response: Response,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Job:
    """Accepts a job. With an `Idempotency-Key` the same request gives the same job, however often it is sent."""
    job, _ = jobs.create(request, idempotency_key, caller.owner, rules.access_for(request))
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job


@router.get("/v1/jobs", responses=responses(400, 422))
def list_jobs(
    jobs: JobsOf,
    caller: CallerOf,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    status: Status | None = None,
) -> JobPage:
    """The jobs, newest first; `next_cursor` gives the next page and is null on the last."""
    try:
        return jobs.page(limit, cursor, status, None if caller.sees_all else caller.owner)
    except ValueError:
        raise HTTPException(400, "the cursor is none that a page gave: take next_cursor as it is") from None


@router.get("/v1/jobs/{job_id}", responses=responses(404))
def get_job(job_id: JobId, jobs: JobsOf) -> Job:
    """One job."""
    return jobs.get(job_id)


@router.post("/v1/jobs/{job_id}/cancel", responses=responses(404, 409))
def cancel_job(job_id: JobId, jobs: JobsOf) -> Job:
    """Cancels a job. What was scored stays, for a later job to use."""
    return jobs.cancel(job_id)
