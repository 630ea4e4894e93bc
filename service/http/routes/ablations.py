"""Ablations: small proxy models trained on several selections of a job, and compared."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from service.contract.ablations import Ablation, AblationList, AblationRequest
from service.http.dependencies import JobId, JobsOf, json_body
from service.http.downloads import describe, file_answers, send_file
from service.http.problems import responses
from service.jobs import ablations

router = APIRouter(tags=["ablations"])
AblationId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="An ablation's id.")]


@router.post(
    "/v1/jobs/{job_id}/ablations",
    status_code=202,
    dependencies=[Depends(json_body)],
    responses=responses(400, 404, 409, 413, 415, 422, 507),
)
def create_ablation(job_id: JobId, options: AblationRequest, jobs: JobsOf, response: Response) -> Ablation:
    """Compares selections of a scored job. The options are those of `winnow ablate`; paths are the service's."""
    made = ablations.add_ablation(jobs, job_id, options)
    response.headers["Location"] = f"/v1/jobs/{job_id}/ablations/{made.id}"
    return made


@router.get("/v1/jobs/{job_id}/ablations", responses=responses(404))
def list_ablations(job_id: JobId, jobs: JobsOf) -> AblationList:
    """The ablations of a job."""
    return AblationList(data=ablations.list_ablations(jobs, job_id))


@router.get("/v1/jobs/{job_id}/ablations/{ablation_id}", responses=responses(404, 422))
def get_ablation(job_id: JobId, ablation_id: AblationId, jobs: JobsOf) -> Ablation:
    """One ablation; its `result` has the content of `ablation.json`."""
    return ablations.find_ablation(jobs, job_id, ablation_id)


@router.post("/v1/jobs/{job_id}/ablations/{ablation_id}/cancel", responses=responses(404, 409, 422))
def cancel_ablation(job_id: JobId, ablation_id: AblationId, jobs: JobsOf) -> Ablation:
    """Cancels an ablation. Its finished runs stay, for when it is asked for again."""
    return ablations.cancel_ablation(jobs, job_id, ablation_id)


@router.head("/v1/jobs/{job_id}/ablations/{ablation_id}/runs.parquet", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/ablations/{ablation_id}/runs.parquet",
    responses=file_answers("parquet"),
    response_class=Response,
)
def download_ablation_runs(job_id: JobId, ablation_id: AblationId, request: Request, jobs: JobsOf) -> Response:
    """Every run, seed, checkpoint and measure of an ablation."""
    storage, path = jobs.workspace.storage, ablations.find_runs(jobs, job_id, ablation_id)
    return send_file(request, storage, path, describe(storage, path), "runs.parquet")
