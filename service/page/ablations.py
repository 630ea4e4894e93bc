"""Ablations on a job's page: asked for with a form, followed, cancelled, shown, downloaded."""

from typing import Any, get_args

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from pruner.ablation.result import AblationResult
from scorer.training.names import PRESETS
from service.contract.ablations import Regime
from service.contract.network import job_path
from service.page import forms
from service.page.ablation_report import ablation_html, result_values
from service.page.api import Api, ApiError, ApiOf
from service.page.render import HEADERS, page_response

router = APIRouter(include_in_schema=False)
_SHOWN_MAX = 10  # on a job's page
_ORDER = ("queued", "running", "succeeded", "failed", "cancelled")
FORM_VALUES = {"presets": PRESETS, "regimes": get_args(Regime)}
_ASKED_FIRST: forms.Form = {"seeds": ["3"]}  # what the form holds at first


async def list_values(api: Api, job_id: str) -> dict[str, Any]:
    """The template values of a job's ablations, those under way first, then results."""
    found = (await api.get(job_path(job_id, "ablations")))["data"]
    found.sort(key=lambda each: _ORDER.index(each["status"]))
    shown = [each | values(each) for each in found[:_SHOWN_MAX]]
    return {"ablations": shown, "ablations_count": len(found), "ablation_form": FORM_VALUES, "typed": _ASKED_FIRST}


def values(ablation: dict[str, Any]) -> dict[str, Any]:
    """What the templates need of an ablation beside itself."""
    return {"shown": None if ablation["result"] is None else result_values(ablation["result"])}


@router.post("/jobs/{job_id}/ablations")
async def ablate(api: ApiOf, job_id: str, form: forms.PostedForm) -> Response:
    """Asks for an ablation, or shows the form again with the reason why there will be none."""
    try:
        made = await api.post(job_path(job_id, "ablations"), forms.ablation_request(form))
    except ApiError as error:
        if error.of_access:
            raise
        job = await api.get(job_path(job_id))
        values = {"job": job, "message": str(error), "typed": form, "ablation_form": FORM_VALUES}
        return page_response("ablation.html", error.status, **values)
    return RedirectResponse(f"/jobs/{job_id}#ablation-{made['id']}", 303, HEADERS)


@router.get("/jobs/{job_id}/ablations/{ablation_id}")
async def follow(api: ApiOf, job_id: str, ablation_id: str) -> Response:
    """The part of a job's page that shows how far an ablation is, and its result."""
    found = await api.get(job_path(job_id, "ablations", ablation_id))
    return page_response("_ablation.html", job_id=job_id, ablation=found | values(found))


@router.post("/jobs/{job_id}/ablations/{ablation_id}/cancel", dependencies=[Depends(forms.read_form)])
async def cancel(api: ApiOf, job_id: str, ablation_id: str) -> Response:
    """Cancels an ablation."""
    await api.post(job_path(job_id, "ablations", ablation_id, "cancel"))
    return RedirectResponse(f"/jobs/{job_id}#ablation-{ablation_id}", 303, HEADERS)


@router.get("/jobs/{job_id}/ablations/{ablation_id}/report.html")
async def report(api: ApiOf, job_id: str, ablation_id: str) -> Response:
    """The report of a complete ablation as one file."""
    found = await api.get(job_path(job_id, "ablations", ablation_id))
    if found["result"] is None:
        return page_response("error.html", 409, title="Conflict", detail="The ablation is not complete.")
    headers = HEADERS | {"Content-Disposition": 'attachment; filename="ablation.html"'}
    body = ablation_html(AblationResult.model_validate(found["result"]))
    return Response(body, 200, headers, "text/html; charset=utf-8")
