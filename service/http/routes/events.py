"""A job's progress as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from redis import RedisError

from service.contract.names import ENDED
from service.contract.schemas import Job
from service.http.dependencies import JobId, JobsOf
from service.http.problems import responses
from service.jobs.jobs import UnknownJob

router = APIRouter(tags=["jobs"])
_LOOK_SECONDS = 0.5
_SILENCE_SECONDS = 2.0  # after which the same state is sent again


def _there(job_id: JobId, jobs: JobsOf) -> Job:
    return jobs.get(job_id)


@router.get("/v1/jobs/{job_id}/events", response_class=EventSourceResponse, responses=responses(404))
async def watch_job(
    job_id: JobId, jobs: JobsOf, job: Annotated[Job, Depends(_there)]
) -> AsyncIterable[ServerSentEvent]:
    """Events `progress`, whose data is the job: when it changes, at least every 2 s, and last when it has ended."""
    yield ServerSentEvent(event="progress", data=job)
    sent, sent_at = job, time.monotonic()
    while sent.status not in ENDED:
        await asyncio.sleep(_LOOK_SECONDS)
        try:
            job = await run_in_threadpool(jobs.get, job_id)
        except (RedisError, OSError):
            continue  # it may come back; meanwhile the client decides how long it waits
        except UnknownJob:
            return
        if job != sent or time.monotonic() - sent_at >= _SILENCE_SECONDS:
            yield ServerSentEvent(event="progress", data=job)
            sent, sent_at = job, time.monotonic()
