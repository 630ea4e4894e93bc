"""Errors of the HTTP API as RFC 9457 problems: every one, those of validation and of the framework included."""

import errno
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pruner.errors import InputError
from service.contract.schemas import Problem
from service.jobs.jobs import Conflict, KeyReused, UnknownJob
from service.jobs.quotas import RETRY_SECONDS, QuotaExceeded

BODY_MAX = 1 << 20  # bytes
RETRY_AFTER = {"Retry-After": "2"}  # seconds


class ProblemRaised(Exception):
    """A problem that was found elsewhere, as the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ProblemResponse(JSONResponse):
    """A problem as the answer."""

    media_type = "application/problem+json"


def problem(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> ProblemResponse:
    """The answer for an error. `more` are members besides those of the RFC."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, instance=request.url.path, **more)
    return ProblemResponse(body.model_dump(), status, headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the problems that an endpoint may answer with."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {ProblemResponse.media_type: schema}}
        for status in (*statuses, 503)
    }


def install(app: FastAPI) -> None:
    """Answers each kind of exception with its problem."""

    def wrong(status: int) -> Callable[[Request, Exception], ProblemResponse]:
        return lambda request, error: problem(request, status, str(error))

    for kind, status in ((Conflict, 409), (KeyReused, 422), (InputError, 422)):
        app.add_exception_handler(kind, wrong(status))

    @app.exception_handler(ProblemRaised)
    def raised(request: Request, error: ProblemRaised) -> ProblemResponse:
        body = error.problem.model_copy(update={"instance": request.url.path})
        return ProblemResponse(body.model_dump(), body.status, RETRY_AFTER if body.status == 503 else None)

    @app.exception_handler(QuotaExceeded)
    def over_quota(request: Request, error: QuotaExceeded) -> ProblemResponse:
        retry = {"Retry-After": str(RETRY_SECONDS)}
        return problem(request, 429, str(error), retry, quota=error.quota)

    @app.exception_handler(UnknownJob)
    def unknown_job(request: Request, error: UnknownJob) -> ProblemResponse:
        return problem(request, 404, f"there is no job {error}")

    @app.exception_handler(RedisError)
    def redis_away(request: Request, _error: RedisError) -> ProblemResponse:
        return problem(request, 503, "the service's Redis does not answer: try again shortly", RETRY_AFTER)

    @app.exception_handler(OSError)
    def storage_away(request: Request, error: OSError) -> ProblemResponse:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return problem(request, 507, "the service's workspace has no space left", RETRY_AFTER)
        return problem(request, 503, "the service's workspace cannot be reached: try again shortly", RETRY_AFTER)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> ProblemResponse:
        detail = str(error.detail)
        if detail == "There was an error parsing the body":  # FastAPI's, of what Python's JSON does not take
            causes = "it is no UTF-8, nested too deep, has a number too long, or is compressed"
            detail = f"the body cannot be read as JSON: {causes}"
        if detail == HTTPStatus(error.status_code).phrase:
            detail = f"{request.method} {request.url.path}: {detail.lower()}"
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_allowed(request)))
        return problem(request, error.status_code, detail, headers)

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> ProblemResponse:
        errors = [{"field": _field(e), "message": _message(e)} for e in error.errors()]
        detail = "; ".join(f"{e['field']}: {e['message']}" if e["field"] else e["message"] for e in errors[:5])
        broken = any(e["type"] == "json_invalid" for e in error.errors())
        return problem(request, 400 if broken else 422, detail, errors=errors)

    @app.exception_handler(Exception)
    def unforeseen(request: Request, _error: Exception) -> ProblemResponse:
        return problem(request, 500, "the service failed; its log says why")


def _allowed(request: Request) -> set[str]:
    """The methods of all routes to the request's path: the router knows only those of the first."""
    routes = [route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in route.methods}


def _field(error: dict[str, Any]) -> str:
    """`selections.0.rate` of ("body", "selections", 0, "rate")."""
    return "" if error["type"] == "json_invalid" else ".".join(str(part) for part in error["loc"][1:])


def _message(error: dict[str, Any]) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not JSON ({error['ctx']['error']})"
    if error["loc"] == ("body",) and error["type"] in ("missing", "model_type", "model_attributes_type"):
        return "the body is no JSON object"
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    return str(error["msg"]).removeprefix("Value error, ")


class BodyLimit:
    """Refuses request bodies over BODY_MAX, told or untold."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"0")
        if not told.isdigit() or int(told) > BODY_MAX:
            answer = problem(Request(scope), 413, f"a request body may have at most {BODY_MAX:,} bytes")
            await answer(scope, receive, send)
            return
        size = 0

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_MAX:
                raise HTTPException(413, f"a request body may have at most {BODY_MAX:,} bytes")
            return message

        await self._app(scope, counted, send)
