"""The page's addresses: each asks the API in this process and shows what it answers."""

import secrets
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse
from starlette.exceptions import HTTPException

from service.contract.names import ENDED, STATUSES
from service.page import api_docs as manual
from service.page import forms
from service.page import job_view as result
from service.page import snippets as repeat
from service.page.api import Api, Refused, job_path
from service.page.render import HEADERS, HERE, STATIC, page
from service.page.report import gather, report_html
from service.page.signin import COOKIE, local_address
from service.page.surprisal import LEVELS, surprisal

router = APIRouter(include_in_schema=False)
Part = Annotated[str | None, Query(max_length=20)]
_JOBS_A_PAGE = 20
_CHARACTERS = 2000  # of a document that are shown with others
_CHARACTERS_ALONE = 100_000  # of one that is shown alone
_CHARACTERS_SCORED = 20_000  # of one whose tokens are shaded

Handler = Callable[..., Awaitable[Response]]


def _shown(handler: Handler) -> Handler:
    """Shows what the API refuses, and forms of other sites, as pages."""

    @wraps(handler)
    async def guarded(*args: Any, **kwargs: Any) -> Response:
        try:
            return await handler(*args, **kwargs)
        except Refused as refused:
            return page("error.html", refused.status, title=refused.problem.get("title", "Error"), detail=str(refused))
        except forms.CrossSite:
            said = (
                "This form was sent from another site, or by a browser that does not say from where: send it from here."
            )
            return page("error.html", 403, title="Forbidden", detail=said)

    return guarded


@router.get("/static/{name}")
async def static(name: str) -> Response:
    """A file of the page's own."""
    if name not in STATIC:
        raise HTTPException(404)
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "public, max-age=86400"}
    return FileResponse(HERE / "static" / name, media_type=STATIC[name], headers=headers)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The API's manual."""
    openapi = request.app.openapi()
    about = openapi["info"]["description"]
    return page("manual.html", about=about, calls=manual.calls(openapi), objects=manual.objects(openapi))


@router.get("/signin")
@_shown
async def sign_in(request: Request, next: str = "/") -> Response:  # noqa: A002
    """The form that takes a key."""
    return page("signin.html", next=local_address(next), wrong=COOKIE in request.cookies)


@router.post("/signin")
@_shown
async def signed_in(request: Request) -> Response:
    """Keeps a key in the browser."""
    form = await forms.posted(request)
    key, there = forms.first(form, "key"), local_address(forms.first(form, "next"))
    if not (key.isascii() and key.isprintable()):  # no cookie can hold it, and no key reads so
        return page("signin.html", 422, next=there, wrong=True)
    answer = RedirectResponse(there, 303, HEADERS)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, key, httponly=True, samesite="strict", secure=secure)
    return answer


@router.get("/")
@_shown
async def jobs(request: Request, cursor: str | None = None, status: str | None = None, part: Part = None) -> Response:
    """The jobs, newest first."""
    status = status or None
    async with Api.behind(request) as api:
        found = await api.get("/v1/jobs", limit=_JOBS_A_PAGE, cursor=cursor, status=status)
    older = urlencode({k: v for k, v in {"cursor": found["next_cursor"], "status": status}.items() if v})
    return page(
        "_jobs.html" if part else "jobs.html",
        jobs=found["data"],
        older=older if found["next_cursor"] else None,
        first=cursor is None,
        wanted=status,
        statuses=STATUSES,
        running=any(job["status"] not in ENDED for job in found["data"]),
    )


@router.get("/new")
@_shown
async def new(request: Request) -> Response:
    """The form of a new job."""
    return _form({}, [], "")


@router.post("/jobs")
@_shown
async def submit(request: Request) -> Response:
    """Submits a job, or shows the form again with what is wrong."""
    form = await forms.posted(request)
    async with Api.behind(request) as api:
        try:
            job = await api.post(
                "/v1/jobs",
                forms.job_body(form),
                **{"Idempotency-Key": forms.first(form, "key") or secrets.token_hex(8)},
            )
        except Refused as refused:
            if refused.status in (401, 403):
                raise
            if refused.status == 422:  # nothing was accepted, and this key may stand for another request
                form["key"] = [secrets.token_hex(16)]
            return _form(form, refused.problem.get("errors", []), str(refused), refused.status)
    return RedirectResponse(f"/jobs/{job['id']}", 303, HEADERS)


def _form(form: forms.Form, errors: list[dict[str, str]], said: str, status: int = 200) -> Response:
    def value(name: str, default: str = "") -> str:
        return forms.first(form, name, default)

    def chosen(name: str, option: str, default: bool = False) -> bool:
        return option in form[name] if name in form else default and not form

    return page(
        "new.html",
        status,
        value=value,
        chosen=chosen,
        errors=errors,
        said=said,
        key=forms.first(form, "key") or secrets.token_hex(16),
    )


@router.get("/jobs/{job_id}")
@_shown
async def job(
    request: Request,
    job_id: str,
    criterion: str | None = None,
    rate: str | None = None,
    unit: str | None = None,
    within: str | None = None,
    by: str = "documents",
    waiting: bool = False,
    part: Part = None,
) -> Response:
    """A job: how far it is, or what came of it."""
    async with Api.behind(request) as api:
        found = await api.get(job_path(job_id))
        if found["status"] != "succeeded" or part == "live":  # the event that it has ended is about to come
            return page("_live.html" if part == "live" else "job.html", **await _running(api, found))
        band = {"criterion": criterion, "rate": rate, "unit": unit, "within": within or None}
        shown = await _result(api, found, band, by if by in ("documents", "tokens") else "documents")
        shown["waiting"] = waiting
        if part == "band":
            return page("_band.html", **shown)
        return page("job.html", **shown, ways=repeat.ways(_server(request), found, _keyed(request)))


def _keyed(request: Request) -> bool:
    return "authorization" in request.headers


def _server(request: Request) -> str:
    return str(request.base_url).rstrip("/")


async def _running(api: Api, job: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a job that has no results."""
    live = job["status"] not in ENDED
    workers = (await api.get(job_path(job["id"], "workers")))["data"] if live else []
    growing = await api.get(job_path(job["id"], "histogram")) if live and job["progress"]["shards_done"] else None
    plots = result.growing(growing["histogram"]) if growing and growing["histogram"] else []
    return {"job": job, "live": live, "workers": workers, "growing": growing, "plots": plots, "report": None}


async def _result(api: Api, job: dict[str, Any], band: dict[str, Any], by: str) -> dict[str, Any]:
    """What is shown of a scored job, with a band of its documents in view."""
    path = job_path(job["id"])
    report = await api.get(f"{path}/report")
    preview = await api.get(f"{path}/preview", **(band if any(band.values()) else result.first_band(job)))
    view = result.facts(job, report) | result.in_view(job, report, preview, by)
    return view | {"live": False, "alone": False}


@router.get("/jobs/{job_id}/report.html")
@_shown
async def report(request: Request, job_id: str) -> Response:
    """The report of a scored job as one file."""
    async with Api.behind(request) as api:
        body = report_html(await gather(api.get, job_id), _server(request), _keyed(request))
    headers = HEADERS | {"Content-Disposition": 'attachment; filename="report.html"'}
    return Response(body, 200, headers, "text/html; charset=utf-8")


@router.post("/jobs/{job_id}/cancel")
@_shown
async def cancel(request: Request, job_id: str) -> Response:
    """Cancels a job."""
    await forms.posted(request)
    async with Api.behind(request) as api:
        await api.post(job_path(job_id, "cancel"))
    return RedirectResponse(f"/jobs/{job_id}", 303, HEADERS)


@router.post("/jobs/{job_id}/selections")
@_shown
async def select(request: Request, job_id: str) -> Response:
    """Makes the band in view a selection."""
    spec = forms.selection_body(await forms.posted(request))
    async with Api.behind(request) as api:
        made = await api.post(job_path(job_id, "selections"), spec)
    later = {} if "manifest_url" in made else {"waiting": "1"}
    return RedirectResponse(f"/jobs/{job_id}?{urlencode(spec | later)}", 303, HEADERS)


@router.get("/jobs/{job_id}/documents")
@_shown
async def documents(
    request: Request,
    job_id: str,
    rank: int = 0,
    count: int = 5,
    surprisal_of: Annotated[int | None, Query(alias="surprisal")] = None,
    start: int | None = None,
    stop: int | None = None,
    domain: int | None = None,
    part: Part = None,
) -> Response:
    """Documents by rank, of all or of a domain, with the tokens of one shaded by surprisal if it is asked for."""
    characters = _CHARACTERS_ALONE if count == 1 else _CHARACTERS
    async with Api.behind(request) as api:
        asked = {"rank": rank, "count": count, "characters": characters, "domain": domain}
        found = await api.get(job_path(job_id, "documents"), **asked)
        shaded, away = {}, ""
        for row in found["data"]:
            if row["rank"] == surprisal_of and row["text"] is not None:
                shaded[row["rank"]], away = await surprisal(api, job_id, row["text"][:_CHARACTERS_SCORED])
    return page(
        "_documents.html" if part else "documents.html",
        job_id=job_id,
        rows=found["data"],
        documents=found["documents"],
        rank=rank,
        count=count,
        start=start,
        stop=stop,
        domain=domain,
        shaded=shaded,
        away=away,
        levels=LEVELS,
        scored_characters=_CHARACTERS_SCORED,
    )
