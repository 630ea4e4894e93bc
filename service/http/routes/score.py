"""A few texts, scored now."""

import asyncio
import time

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from service.contract.schemas import Problem, ScoreRequest, ScoreResult
from service.http.dependencies import CallerOf, JobsOf, RulesOf, json_body, own_job
from service.http.problems import RETRY_AFTER, ProblemRaised, responses

router = APIRouter(tags=["score"])
WAIT_SECONDS = 30.0  # for a worker to answer
_LOOK_SECONDS = 0.05


@router.post("/v1/score", dependencies=[Depends(json_body)], responses=responses(400, 404, 413, 415, 422))
async def score_texts(request: ScoreRequest, jobs: JobsOf, caller: CallerOf, rules: RulesOf) -> ScoreResult:
    """Scores a few texts now, between two batches of whatever the workers do: to look before a job is submitted."""
    access = rules.access_to_model(request.model)
    if request.job is not None:
        await run_in_threadpool(own_job, request.job, jobs, caller)
        await run_in_threadpool(jobs.get, request.job)
    name = await run_in_threadpool(jobs.score_requests.put, request, WAIT_SECONDS, access)
    deadline = time.monotonic() + WAIT_SECONDS
    while name is not None and time.monotonic() < deadline:
        answer = await run_in_threadpool(jobs.score_requests.answer, name)
        if isinstance(answer, Problem):
            raise ProblemRaised(answer)
        if answer is not None:
            return answer
        await asyncio.sleep(_LOOK_SECONDS)
    what = "too many texts wait to be scored" if name is None else f"no worker answered in {WAIT_SECONDS:.0f} s"
    raise HTTPException(503, f"{what}: try again shortly, or start more with `winnow worker`", RETRY_AFTER)
