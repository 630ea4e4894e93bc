"""Questions about scores: previews and documents of a scored job; the histogram and the workers of one that runs."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import ValidationError

from pruner.errors import InputError
from pruner.select.documents import Documents
from pruner.select.partial_histogram import PartialHistogram
from pruner.select.selection_record import PreviewReport
from pruner.spec import BY_BYTE, BY_TOKEN, Criterion, Order, SelectionSpec, StageSpec
from pruner.validation import explain
from service.contract.schemas import JobWorkers
from service.http.dependencies import JobId, JobsOf
from service.http.problems import responses
from service.jobs import explore

router = APIRouter(tags=["explore"])
Seed = Annotated[int | None, Query(ge=0, lt=2**63)]
Limit = Annotated[float | None, Query(allow_inf_nan=False, description="A threshold on the score, itself kept.")]
Score = Annotated[str | None, Query(max_length=80, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


@router.get("/v1/jobs/{job_id}/preview", responses=responses(404, 409, 422))
def preview_selection(
    job_id: JobId,
    jobs: JobsOf,
    criterion: Criterion = "medium",
    rate: Annotated[float, Query(gt=0, le=1)] = 0.5,
    unit: Literal["documents", "tokens"] = "documents",
    within: Literal["domain"] | None = None,
    per: Literal["byte"] | None = None,
    seed: Seed = None,
    score: Score = None,
    at_least: Limit = None,
    at_most: Limit = None,
    selection: Annotated[
        str | None, Query(max_length=200, description="A selection of the job; the other parameters then say nothing.")
    ] = None,
) -> PreviewReport:
    """What a selection would keep: its counts, exactly as the selection then has them, and the domains' shares.

    With `per`, and at random, once there is a selection in the same order; with `score` too, where the job has over a
    million documents. With `at_least` or `at_most`, which are thresholds on `score`, in place of a criterion. With
    `selection`, one of the job's own.
    """
    if selection is not None:
        return explore.preview(jobs, job_id, explore.made(jobs, job_id, selection))
    try:
        if at_least is not None or at_most is not None:
            spec = SelectionSpec(stages=(StageSpec(score=score, at_least=at_least, at_most=at_most),))
        else:
            of = {"unit": unit, "within": within, "per": per, "seed": seed, "score": score}
            spec = SelectionSpec.model_validate({"criterion": criterion, "rate": rate} | of)
    except ValidationError as error:
        raise InputError(explain(error.errors()[0], "")) from None
    return explore.preview(jobs, job_id, spec)


@router.get("/v1/jobs/{job_id}/documents", responses=responses(404, 409, 422))
def list_documents(
    job_id: JobId,
    jobs: JobsOf,
    rank: Annotated[int, Query(ge=0, le=2**62, description="The first, from 0.")] = 0,
    count: Annotated[int, Query(ge=1, le=25)] = 5,
    characters: Annotated[int, Query(ge=0, le=200_000, description="Of each text, from its beginning.")] = 2000,
    domain: Annotated[
        int | None,
        Query(ge=0, description="A domain's row in the report, from 0: its documents alone, by ranks among them."),
    ] = None,
    per: Literal["byte"] | None = None,
    seed: Seed = None,
    score: Score = None,
) -> Documents:
    """Scored documents by their rank, with the beginnings of their texts, read from the corpus.

    They are in the order of perplexity; with `per`, of NLL per byte; with `seed`, of random selections with this seed:
    both once there is a selection in this order. With `score`, of this score: where the job has over a million
    documents, once there is a selection in this order.
    """
    if [per, seed, score].count(None) < 2:
        raise InputError("per, seed and score are different orders: give one of them")
    ranked = Order("hash", seed) if seed is not None else BY_TOKEN if per is None else BY_BYTE
    ranked = ranked if score is None else Order("score", column=score)
    return explore.documents(jobs, job_id, rank, count, characters, domain, ranked)


@router.get("/v1/jobs/{job_id}/histogram", responses=responses(404))
def get_histogram(job_id: JobId, jobs: JobsOf) -> PartialHistogram:
    """The histogram of ln(perplexity) of the shards that are scored so far."""
    return explore.growing_histogram(jobs, job_id)


@router.get("/v1/jobs/{job_id}/workers", responses=responses(404))
def list_workers(job_id: JobId, jobs: JobsOf) -> JobWorkers:
    """The workers that have tasks of a job now, with their last sign of life."""
    return jobs.workers(job_id)
