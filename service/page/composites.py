"""Selections by several scores on a job's page: built with a form, shown as JSON, and made."""

from collections.abc import Sequence

from fastapi import APIRouter, Response
from fastapi.responses import RedirectResponse

from service.contract.network import job_path
from service.contract.scorers import PERPLEXITY
from service.page import forms
from service.page.addresses import selection_address
from service.page.api import Api, ApiError, ApiOf
from service.page.composite_form import STAGES, TERMS, as_json, composite_request, field_of
from service.page.render import HEADERS, page_response

router = APIRouter(include_in_schema=False)


async def _form(
    api: Api,
    job_id: str,
    form: forms.Form,
    status: int = 200,
    errors: Sequence[dict[str, str]] = (),
    template: str = "composite.html",
) -> Response:
    """The form with `errors` of the API, whose `field` is one of the form; above it those with none."""
    job, report = await api.get(job_path(job_id)), await api.get(job_path(job_id, "report"))
    request = job["request"]
    kinds = {name: "reference" for name, spec in (request.get("scores") or {}).items() if spec["reference"]}
    references = [*([PERPLEXITY] if request["reference"] is not None else []), *kinds]

    def value(name: str, default: str = "") -> str:
        return forms.first_value(form, f"composite_{name}", default)

    def wrong(name: str) -> list[str]:
        return [error["message"] for error in errors if error["field"] == name]

    return page_response(
        template,
        status,
        job=job,
        value=value,
        wrong_of=wrong,
        message="; ".join(wrong("")),
        as_json=as_json(composite_request(form)) if form else "",
        scores=[score["name"] for score in report.get("scores", ())],
        references=references,
        stages=STAGES,
        terms=TERMS,
        has_domains=request["corpus"]["domain_field"] is not None,
        has_reference=request["reference"] is not None,
    )


@router.get("/jobs/{job_id}/composites")
async def composite_form(api: ApiOf, job_id: str, part: str | None = None) -> Response:
    """The empty form, as a page or as a part of one."""
    return await _form(api, job_id, {}, template="_composite.html" if part else "composite.html")


@router.post("/jobs/{job_id}/composites")
async def compose(api: ApiOf, job_id: str, form: forms.PostedForm, part: str | None = None) -> Response:
    """Makes the selection of the form; or shows its JSON, or the form again with its errors."""
    spec = composite_request(form)
    if part == "json":
        return page_response("_composite_json.html", as_json=as_json(spec))
    if not forms.first_value(form, "composite_make"):
        return await _form(api, job_id, form)
    try:
        made = await api.post(job_path(job_id, "selections"), spec)
    except ApiError as error:
        if error.of_access:
            raise
        found = error.problem.get("errors") or [{"field": "", "message": str(error)}]
        errors = [{"field": field_of(each, form), "message": each["message"]} for each in found]
        return await _form(api, job_id, form, error.status, errors)
    return RedirectResponse(selection_address(job_id, spec, made), 303, HEADERS)
