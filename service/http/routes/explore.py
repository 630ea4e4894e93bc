"""What a scored job is asked before a selection is made of it, and one that runs while it does."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from pruner.select.documents import Documents
from pruner.select.partial_histogram import PartialHistogram
from pruner.select.selection_record import PreviewReport
from pruner.spec import SelectionSpec
from service.contract.schemas import JobWorkers
from service.http.dependencies import JobId, JobsOf
from service.http.problems import responses
from service.jobs import explore

router = APIRouter(tags=["explore"])


@router.get("/v1/jobs/{job_id}/preview", responses=responses(404, 409, 422))
def preview(
    job_id: JobId,
    jobs: JobsOf,
    criterion: Literal["low", "medium", "high"] = "medium",
    rate: Annotated[float, Query(gt=0, le=1)] = 0.5,
    unit: Literal["documents", "tokens"] = "documents",
    within: Literal["domain"] | None = None,
) -> PreviewReport:
    """What a selection would keep: its counts, exactly as the selection then has them, and the domains' shares."""
    return explore.preview(jobs, job_id, SelectionSpec(criterion=criterion, rate=rate, unit=unit, within=within))


@router.get("/v1/jobs/{job_id}/documents", responses=responses(404, 409, 422))
def documents(
    job_id: JobId,
    jobs: JobsOf,
    rank: Annotated[int, Query(ge=0, le=2**62, description="The first, in the order of perplexity, from 0.")] = 0,
    count: Annotated[int, Query(ge=1, le=25)] = 5,
    characters: Annotated[int, Query(ge=0, le=200_000, description="Of each text, from its beginning.")] = 2000,
    domain: Annotated[
        int | None,
        Query(ge=0, description="A domain's row in the report, from 0: its documents alone, by ranks among them."),
    ] = None,
) -> Documents:
    """Scored documents by their rank, with the beginnings of their texts, read from the corpus."""
    return explore.documents(jobs, job_id, rank, count, characters, domain)


@router.get("/v1/jobs/{job_id}/histogram", responses=responses(404))
def histogram(job_id: JobId, jobs: JobsOf) -> PartialHistogram:
    """The histogram of ln(perplexity) of the shards that are scored so far."""
    return explore.growing_histogram(jobs, job_id)


@router.get("/v1/jobs/{job_id}/workers", responses=responses(404))
def workers(job_id: JobId, jobs: JobsOf) -> JobWorkers:
    """The workers that have tasks of a job now, with their last sign of life."""
    return jobs.workers(job_id)
