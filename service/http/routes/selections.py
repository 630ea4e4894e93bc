"""One more selection of a scored job, without scoring again."""

import asyncio
import time

from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool

from pruner.spec import SelectionSpec
from service.contract.schemas import Job, SelectionResult
from service.http.dependencies import JobId, JobsOf, json_body
from service.http.problems import responses

router = APIRouter(tags=["selections"])
_WAIT_SECONDS = 20.0  # for a selection to be made before the answer says that it will be
_LOOK_SECONDS = 0.1


@router.post(
    "/v1/jobs/{job_id}/selections",
    status_code=201,
    dependencies=[Depends(json_body)],
    responses={
        200: {"model": SelectionResult, "description": "It was there already"},
        202: {"model": Job, "description": "It is being made: the job will show it"},
        **responses(400, 404, 409, 413, 415, 422, 507),
    },
    response_model=SelectionResult | Job,
)
async def create_selection(
    job_id: JobId, spec: SelectionSpec, jobs: JobsOf, response: Response
) -> SelectionResult | Job:
    """Makes a selection: it, or, if that takes long, the job that will show it."""
    made = await run_in_threadpool(jobs.add_selection, job_id, spec)
    if made is not None:
        response.status_code = 200
    deadline = time.monotonic() + _WAIT_SECONDS
    while made is None and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        made = await run_in_threadpool(jobs.selection, job_id, spec.id)
    if made is None:
        response.status_code = 202
        response.headers["Location"] = f"/v1/jobs/{job_id}"
        return await run_in_threadpool(jobs.get, job_id)
    response.headers["Location"] = made.manifest_url
    return made
