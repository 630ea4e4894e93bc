"""The page's routes. Each gets its data from the HTTP API within this process and renders a template."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from starlette.exceptions import HTTPException

from pruner.tables.table_files import is_folder
from scorer.training.names import PRESETS
from service.contract.names import ENDED, STATUSES
from service.contract.network import job_path
from service.contract.scorers import PERPLEXITY
from service.http.dependencies import RulesOf
from service.page import ablations, api_docs, composites, exports, forms, job_view, progress_view
from service.page.addresses import selection_address
from service.page.api import Api, ApiError, ApiOf
from service.page.job_list import job_row
from service.page.refill import refilled
from service.page.render import FOLDER, HEADERS, STATIC_HEADERS, STATIC_TYPES, page_response
from service.page.report import fetch_report_data, report_html
from service.page.signin import COOKIE, local_address
from service.page.snippets import snippets
from service.page.surprisal import LEVELS, level, surprisal

router = APIRouter(include_in_schema=False)
router.include_router(exports.router)
router.include_router(ablations.router)
router.include_router(composites.router)
router.include_router(api_docs.router)
# The name of the part of a page that a script asks for; without it the whole page is sent.
Part = Annotated[str | None, Query(max_length=20)]
_TITLES = {
    403: "Not allowed",
    404: "Not found",
    409: "Not possible now",
    422: "Not possible",
    503: "The service is not ready",
}  # of error pages, by status
_JOBS_PER_PAGE = 20
_CHARACTERS = 2000  # of each of several documents
_CHARACTERS_ALONE = 100_000  # of a single document
_CHARACTERS_SCORED = 20_000  # of a document whose tokens are shaded


class Look(NamedTuple):
    """What a check of the form's corpus found, as the API says it, or why there was none."""

    found: dict[str, Any] | None = None
    error: str = ""


def install_error_pages(app: FastAPI) -> None:
    """Registers handlers that turn errors of the API, and forms of other sites, into error pages."""

    @app.exception_handler(ApiError)
    def api_error(_request: Request, error: ApiError) -> Response:
        title = _TITLES.get(error.status, error.problem.get("title", "Error"))
        return page_response("error.html", error.status, title=title, detail=str(error))

    @app.exception_handler(forms.CrossOriginForm)
    def cross_origin_form(_request: Request, _error: forms.CrossOriginForm) -> Response:
        detail = "The form came from another site, or the browser does not say from which: send it from here."
        return page_response("error.html", 403, title=_TITLES[403], detail=detail)


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """A static file."""
    if name not in STATIC_TYPES:
        raise HTTPException(404)
    return FileResponse(FOLDER / "static" / name, media_type=STATIC_TYPES[name], headers=STATIC_HEADERS)


@router.get("/signin")
async def sign_in_form(request: Request, next: str = "/") -> Response:  # noqa: A002
    """The form that asks for a key."""
    return page_response("signin.html", next=local_address(next), wrong=COOKIE in request.cookies)


@router.post("/signin")
async def sign_in(request: Request, form: forms.PostedForm) -> Response:
    """Stores the key in a cookie."""
    key, address = forms.first_value(form, "key"), local_address(forms.first_value(form, "next"))
    if not (key.isascii() and key.isprintable()):  # not a key, and a cookie cannot hold it
        return page_response("signin.html", 422, next=address, wrong=True)
    answer = RedirectResponse(address, 303, HEADERS)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=secure)
    return answer


@router.get("/")
async def jobs(api: ApiOf, cursor: str | None = None, status: str | None = None, part: Part = None) -> Response:
    """The list of jobs, newest first."""
    status = status or None
    found = await api.get("/v1/jobs", limit=_JOBS_PER_PAGE, cursor=cursor, status=status)
    next_query = urlencode({k: v for k, v in {"cursor": found["next_cursor"], "status": status}.items() if v})
    return page_response(
        "_jobs.html" if part else "jobs.html",
        rows=[job_row(job) for job in found["data"]],
        next_query=next_query if found["next_cursor"] else None,
        first_page=cursor is None,
        status_filter=status,
        statuses=STATUSES,
        running=any(job["status"] not in ENDED for job in found["data"]),
    )


@router.get("/new")
async def new_job_form(api: ApiOf, job: str | None = None) -> Response:
    """The form of a new job, filled in as `job` was asked for, if one is named."""
    if job is None:
        return _job_form({})
    form, differs = refilled((await api.get(job_path(job)))["request"])
    return _job_form(form, like=job, differs=differs)


@router.post("/new")
async def check_corpus(api: ApiOf, form: forms.PostedForm, part: Part = None) -> Response:
    """The form with a look at its corpus."""
    form = forms.with_suggestion(form)
    try:
        look, status = Look(await api.post("/v1/corpora/check", forms.corpus_request(form))), 200
    except ApiError as error:
        look, status = Look(error=str(error)), error.status
    return _job_form(form, status, "_check.html" if part else "new.html", look=look)


@router.post("/jobs")
async def submit(api: ApiOf, form: forms.PostedForm) -> Response:
    """Submits a job, or shows the form again with its errors."""
    key = forms.first_value(form, "key") or secrets.token_hex(16)
    try:
        job = await api.post("/v1/jobs", forms.job_request(form), **{"Idempotency-Key": key})
    except ApiError as error:
        if error.of_access:
            raise
        if error.status == 422:  # no job was made; a corrected request needs a new key
            form["key"] = [secrets.token_hex(16)]
        return _job_form(form, error.status, errors=error.problem.get("errors", ()), message=str(error))
    return RedirectResponse(f"/jobs/{job['id']}", 303, HEADERS)


def _job_form(
    form: forms.Form,
    status: int = 200,
    template: str = "new.html",
    *,
    errors: Sequence[dict[str, str]] = (),
    message: str = "",
    look: Look | None = None,
    like: str = "",
    differs: Sequence[str] = (),
) -> Response:
    """The form with these fields. `like`: the job that it is filled in from, `differs`: what is not as there."""

    def value(name: str, default: str = "") -> str:
        return forms.first_value(form, name, default)

    def chosen(name: str, option: str, default: bool = False) -> bool:
        return option in form[name] if name in form else default and not form

    def messages(field: str) -> list[str]:
        inside = (error for error in errors if error["field"] == field or error["field"].startswith(f"{field}."))
        return [error["message"] for error in inside]

    key = forms.first_value(form, "key") or secrets.token_hex(16)
    return page_response(
        template,
        status,
        value=value,
        chosen=chosen,
        messages=messages,
        whole_reference=any(error["field"] == "reference" for error in errors),
        message=message,
        key=key,
        presets=PRESETS,
        look=look,
        like=like,
        differs=differs,
    )


@router.get("/jobs/{job_id}")
async def job(
    request: Request,
    api: ApiOf,
    rules: RulesOf,
    job_id: str,
    criterion: str | None = None,
    rate: str | None = None,
    unit: str | None = None,
    within: str | None = None,
    per: str | None = None,
    seed: str | None = None,
    score: str | None = None,
    at_least: str | None = None,
    at_most: str | None = None,
    by: str = "documents",
    requested: bool = False,
    selection: str | None = None,
    part: Part = None,
) -> Response:
    """A job: its progress, or its results with a preview of a selection. `requested`: the selection is being made."""
    found = await api.get(job_path(job_id))
    if found["status"] != "succeeded" or part == "live":  # a script that asks for progress waits for the last event
        return page_response("_live.html" if part == "live" else "job.html", **await _progress_values(api, found))
    spec = {"criterion": criterion, "rate": rate, "unit": unit, "within": within or None}
    # The form always sends all fields, each of which is for some criteria only.
    if criterion == "threshold":
        spec = {"score": score or PERPLEXITY, "at_least": at_least or None, "at_most": at_most or None}
    elif criterion == "random":
        spec |= {"seed": seed or None}
    else:
        spec |= {"score": score} if score else {"per": per or None}
    if selection is not None:
        spec = {"selection": selection}
    values = await _result_values(api, found, spec, by if by in ("documents", "tokens") else "documents")
    values |= {"requested": requested} | exports.form_values(rules)
    if part == "preview" and "preview_part" in values:
        return page_response(values["preview_part"], **values)
    server, with_key = _server(request), _with_key(request)
    values |= await exports.list_values(api, found["id"], server, with_key)
    values |= await ablations.list_values(api, found["id"])
    values["scores_in_parts"] = is_folder(values["report"]["documents"])
    return page_response("job.html", **values, snippets=snippets(server, found, with_key))


def _with_key(request: Request) -> bool:
    return "authorization" in request.headers


def _server(request: Request) -> str:
    return str(request.base_url).rstrip("/")


async def _progress_values(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    """The template values of a job without results."""
    live = job["status"] not in ENDED
    workers = (await api.get(job_path(job["id"], "workers")))["data"] if live else []
    partial = await api.get(job_path(job["id"], "histogram")) if live and job["progress"]["documents_done"] else None
    plots = job_view.partial_plots(partial["histogram"]) if partial and partial["histogram"] else []
    values = {"job": job, "partial": partial, "plots": plots, "report": None}
    return values | progress_view.progress_values(job, workers)


async def _result_values(api: Api, job: dict[str, Any], spec: dict[str, Any], by: str) -> dict[str, Any]:
    """The template values of a scored job with a preview of the selection `spec`, by default of its first one."""
    path = job_path(job["id"])
    report = await api.get(f"{path}/report")
    if "at_least" in spec and spec["at_least"] is spec["at_most"] is None:
        spec["at_least"] = job_view.median(report, spec["score"])
    if not any(spec.values()):
        spec = {"selection": job["selections"][0]["id"]} if job["selections"] else {}
    values = job_view.job_values(job, report) | {"live": False, "standalone": False}
    try:
        preview = await api.get(f"{path}/preview", **spec)
    except ApiError as error:
        if error.status != 409:
            raise
        return values | job_view.unseen_values(spec, by, str(error))
    return values | job_view.preview_values(job, report, preview, by)


@router.get("/jobs/{job_id}/report.html")
async def report(request: Request, api: ApiOf, job_id: str) -> Response:
    """The report of a scored job as one file."""
    body = report_html(await fetch_report_data(api.get, job_id), _server(request), _with_key(request))
    headers = HEADERS | {"Content-Disposition": 'attachment; filename="report.html"'}
    return Response(body, 200, headers, "text/html; charset=utf-8")


@router.post("/jobs/{job_id}/cancel", dependencies=[Depends(forms.read_form)])
async def cancel(api: ApiOf, job_id: str) -> Response:
    """Cancels a job."""
    await api.post(job_path(job_id, "cancel"))
    return RedirectResponse(f"/jobs/{job_id}", 303, HEADERS)


@router.post("/jobs/{job_id}/selections")
async def select(api: ApiOf, job_id: str, form: forms.PostedForm) -> Response:
    """Makes the previewed selection."""
    spec = forms.selection_request(form)
    made = await api.post(job_path(job_id, "selections"), spec)
    return RedirectResponse(selection_address(job_id, spec, made), 303, HEADERS)


@router.get("/jobs/{job_id}/documents")
async def documents(
    api: ApiOf,
    job_id: str,
    rank: int = 0,
    count: int = 5,
    surprisal_of: Annotated[int | None, Query(alias="surprisal")] = None,
    start: int | None = None,
    stop: int | None = None,
    domain: int | None = None,
    per: str | None = None,
    score: str | None = None,
    part: Part = None,
) -> Response:
    """Documents by rank, of all or of a domain; the tokens of the one of rank `surprisal` are shaded."""
    characters = _CHARACTERS_ALONE if count == 1 else _CHARACTERS
    page = {"rank": rank, "count": count, "characters": characters, "domain": domain, "per": per, "score": score}
    found = await api.get(job_path(job_id, "documents"), **page)
    shaded, scoring_error = {}, ""
    for row in found["data"]:
        if row["rank"] == surprisal_of and row["text"] is not None:
            shaded[row["rank"]], scoring_error = await surprisal(api, job_id, row["text"][:_CHARACTERS_SCORED])
    return page_response(
        "_documents.html" if part else "documents.html",
        job_id=job_id,
        rows=found["data"],
        documents=found["documents"],
        rank=rank,
        count=count,
        start=start,
        stop=stop,
        domain=domain,
        per=per,
        score=score,
        has_reference=(await api.get(job_path(job_id)))["request"]["reference"] is not None,
        shaded=shaded,
        scoring_error=scoring_error,
        levels=LEVELS,
        shade=level,
        scored_characters=_CHARACTERS_SCORED,
    )
