"""Exports on a job's page: asked for with a form, followed, downloaded."""

from typing import Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from pruner.export.formats import ExportFormat
from service.contract.network import job_path
from service.contract.permissions import Rules
from service.http.dependencies import RulesOf
from service.page import forms, snippets
from service.page.api import Api, ApiError, ApiOf
from service.page.render import HEADERS, page_response

router = APIRouter(include_in_schema=False)
_EXPORTS_MAX = 20  # shown on a job's page
_FILES_MAX = 20  # shown of an export


def form_values(rules: Rules) -> dict[str, Any]:
    """The template values of a form that asks for an export."""
    return {"export_formats": get_args(ExportFormat), "export_roots": rules.export_roots}


async def list_values(api: Api, job_id: str, server: str, with_key: bool) -> dict[str, Any]:
    """The template values of a job's exports, those that are not complete first."""
    found = (await api.get(job_path(job_id, "exports")))["data"]
    found.sort(key=lambda each: each["status"] == "succeeded")
    shown = found[:_EXPORTS_MAX]
    commands = {each["id"]: snippets.export_commands(server, job_id, each, with_key) for each in shown}
    return {"exports": shown, "exports_count": len(found), "export_commands": commands, "files_max": _FILES_MAX}


@router.post("/jobs/{job_id}/exports")
async def export(api: ApiOf, rules: RulesOf, job_id: str, form: forms.PostedForm) -> Response:
    """Asks for an export, or shows the form again with the reason why there will be none."""
    selection, options = forms.first_value(form, "selection"), forms.export_request(form)
    try:
        made = await api.post(job_path(job_id, "selections", selection, "exports"), options)
    except ApiError as error:
        if error.of_access:
            raise
        values = {"job_id": job_id, "selection": selection, "options": options, "message": str(error)}
        return page_response("export.html", error.status, **values, **form_values(rules))
    job = await api.get(job_path(job_id))
    names = ("criterion", "rate", "unit", "within", "per", "seed", "score")
    previews = [{name: spec.get(name) or "" for name in names} for spec in job["selections"] if spec["id"] == selection]
    query = f"?{urlencode(previews[0])}" if previews else ""
    return RedirectResponse(f"/jobs/{job_id}{query}#export-{made['id']}", 303, HEADERS)


@router.get("/jobs/{job_id}/exports/{export_id}")
async def follow(api: ApiOf, job_id: str, export_id: str) -> Response:
    """The part of a job's page that shows how far an export is."""
    found = await api.get(job_path(job_id, "exports", export_id))
    return page_response("_export.html", job_id=job_id, export=found, files_max=_FILES_MAX)
