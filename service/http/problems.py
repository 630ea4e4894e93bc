"""Errors of the HTTP API as RFC 9457 problems, including those of validation and of the framework."""

import errno
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from redis import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from pruner.errors import InputError
from pruner.validation import KEY, explain, relevant
from service.contract.quotas import RETRY_SECONDS, QuotaExceeded
from service.contract.schemas import Problem
from service.jobs.ablations import UnknownAblation
from service.jobs.exports import UnknownExport
from service.jobs.jobs import Conflict, KeyReused, UnknownJob

RETRY_AFTER = {"Retry-After": "2"}  # seconds
STORAGE_UNREACHABLE = "the service's workspace cannot be reached: try again shortly"


class ProblemRaised(Exception):
    """A problem of a worker that becomes the answer to a request."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ProblemResponse(JSONResponse):
    """An answer with a problem as its JSON body."""

    media_type = "application/problem+json"


def problem(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None, **more: Any
) -> ProblemResponse:
    """The answer to a failed request. `more` are members of the problem that the RFC does not define."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, instance=request.url.path, **more)
    return ProblemResponse(body.model_dump(), status, headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of an endpoint that may answer with problems of these statuses, and with 503."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {ProblemResponse.media_type: schema}}
        for status in (*statuses, 503)
    }


def install(app: FastAPI) -> None:
    """Registers a handler for each kind of exception."""

    def answer_with(status: int) -> Callable[[Request, Exception], ProblemResponse]:
        return lambda request, error: problem(request, status, str(error))

    for kind, status in ((Conflict, 409), (KeyReused, 422), (InputError, 422)):
        app.add_exception_handler(kind, answer_with(status))

    @app.exception_handler(ProblemRaised)
    def problem_raised(request: Request, error: ProblemRaised) -> ProblemResponse:
        body = error.problem.model_copy(update={"instance": request.url.path})
        return ProblemResponse(body.model_dump(), body.status, RETRY_AFTER if body.status == 503 else None)

    @app.exception_handler(QuotaExceeded)
    def over_quota(request: Request, error: QuotaExceeded) -> ProblemResponse:
        retry = {"Retry-After": str(RETRY_SECONDS)}
        return problem(request, 429, str(error), retry, quota=error.quota)

    @app.exception_handler(UnknownJob)
    def unknown_job(request: Request, error: UnknownJob) -> ProblemResponse:
        return problem(request, 404, f"there is no job {error}")

    @app.exception_handler(UnknownAblation)
    @app.exception_handler(UnknownExport)
    def unknown(request: Request, error: UnknownAblation | UnknownExport) -> ProblemResponse:
        return problem(request, 404, str(error))

    @app.exception_handler(RedisError)
    def redis_unreachable(request: Request, _error: RedisError) -> ProblemResponse:
        return problem(request, 503, "the service's Redis does not answer: try again shortly", RETRY_AFTER)

    @app.exception_handler(OSError)
    def storage_unreachable(request: Request, error: OSError) -> ProblemResponse:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return problem(request, 507, "the service's workspace has no space left", RETRY_AFTER)
        return problem(request, 503, STORAGE_UNREACHABLE, RETRY_AFTER)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> ProblemResponse:
        detail = str(error.detail)
        if detail == "There was an error parsing the body":  # FastAPI's text
            causes = "it is not UTF-8, nested too deeply, compressed, or has a number that is too long"
            detail = f"the body cannot be read as JSON: {causes}"
        if detail == HTTPStatus(error.status_code).phrase:
            detail = f"{request.method} {request.url.path}: {detail.lower()}"
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_allowed(request)))
        return problem(request, error.status_code, detail, headers)

    @app.exception_handler(RequestValidationError)
    def validation(request: Request, error: RequestValidationError) -> ProblemResponse:
        found = relevant(error.errors())
        errors = [_describe(each) for each in found]
        messages = [_message(each, made["field"]) for each, made in zip(found, errors, strict=True)]
        not_json = any(each["type"] == "json_invalid" for each in found)
        return problem(request, 400 if not_json else 422, "; ".join(messages[:5]), errors=errors)

    @app.exception_handler(Exception)
    def unexpected(request: Request, _error: Exception) -> ProblemResponse:
        return problem(request, 500, "internal error: the reason is in the service's log")


def _allowed(request: Request) -> set[str]:
    """The methods of all routes that match the request's path; Starlette lists only those of the first."""
    routes = [route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in routes for method in route.methods}


def _describe(error: Mapping[str, Any]) -> dict[str, str]:
    """The member of `errors` for an error of pydantic: the dotted `field`, and a `message` with the field's name."""
    path = [] if error["type"] == "json_invalid" else [str(part) for part in error["loc"][1:] if part != KEY]
    name = next((part for part in reversed(path) if not part.isdigit()), "")
    return {"field": ".".join(path), "message": _message(error, name)}


def _message(error: Mapping[str, Any], name: str) -> str:
    if error["type"] == "json_invalid":
        return f"the body is not JSON ({error['ctx']['error']})"
    if error["loc"] == ("body",) and error["type"] in ("missing", "model_type", "model_attributes_type"):
        return "the body is not a JSON object"
    return explain(error, name)
