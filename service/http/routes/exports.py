"""Exports: the kept documents of a selection as corpus files."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.exceptions import HTTPException

from pruner.export.export_record import CARD_FILE, EXPORT_FILE
from pruner.tables.hashing_writer import WrittenFile
from service.contract.schemas import Export, ExportList, ExportOptions
from service.http.dependencies import JobId, JobsOf, RulesOf, json_body
from service.http.downloads import describe, file_answers, send_file
from service.http.problems import responses
from service.http.routes.files import SelectionId
from service.jobs import exports
from service.jobs.jobs import Conflict
from service.kinds import export

router = APIRouter(tags=["exports"])
ExportId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="An export's id.")]


@router.post(
    "/v1/jobs/{job_id}/selections/{selection_id}/exports",
    status_code=202,
    dependencies=[Depends(json_body)],
    responses=responses(400, 404, 409, 413, 415, 422, 507),
)
def create_export(
    job_id: JobId,
    selection_id: SelectionId,
    options: ExportOptions,
    jobs: JobsOf,
    rules: RulesOf,
    response: Response,
) -> Export:
    """Exports the documents of a selection; `all` as its id exports every scored document outside the train split."""
    made = exports.add_export(jobs, job_id, selection_id, options, rules.export_roots)
    response.headers["Location"] = f"/v1/jobs/{job_id}/exports/{made.id}"
    return made


@router.get("/v1/jobs/{job_id}/exports", responses=responses(404))
def list_exports(job_id: JobId, jobs: JobsOf) -> ExportList:
    """The exports of a job."""
    return ExportList(data=exports.list_exports(jobs, job_id))


@router.get("/v1/jobs/{job_id}/exports/{export_id}", responses=responses(404, 422))
def get_export(job_id: JobId, export_id: ExportId, jobs: JobsOf) -> Export:
    """One export."""
    return exports.find_export(jobs, job_id, export_id)


@router.head("/v1/jobs/{job_id}/exports/{export_id}/files/{path:path}", include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/exports/{export_id}/files/{path:path}",
    responses=file_answers("parquet", "jsonl", "json"),
    response_class=Response,
)
def download_export_file(job_id: JobId, export_id: ExportId, path: str, request: Request, jobs: JobsOf) -> Response:
    """A file of an export that lies in the workspace: one that it lists, `export.json` or `README.md`."""
    _, files = jobs.files(job_id)
    wanted = exports.find_wanted(files, export_id)
    made = export.find(files, wanted)
    if made is None:
        raise Conflict("the export is not complete: ask again when it has succeeded")
    if wanted.options.out is not None:
        raise Conflict(f"the export lies in {wanted.options.out}: read it there")
    place = export.output(files, wanted)
    if path in (EXPORT_FILE, CARD_FILE):
        about = describe(place.storage, place.path(path))
    else:
        found = next((file for file in made.files if file.path == path), None)
        if found is None:
            raise HTTPException(404, f"the export has no file {path}")
        about = WrittenFile(sha256=found.sha256, size=found.bytes)
    return send_file(request, place.storage, place.path(path), about, path.rpartition("/")[2])
