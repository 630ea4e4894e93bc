"""The HTTP API as the page calls it: within its own process, with the credentials of the visitor's browser."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
from fastapi import Depends, Request

_FORWARDED_HEADERS = ("authorization", "cookie", "origin", "sec-fetch-site")


class ApiError(Exception):
    """The API answered with a problem (RFC 9457)."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(problem.get("detail", ""))
        self.status = status
        self.problem = problem

    @property
    def of_access(self) -> bool:
        """Whether the sender may not do this at all, or what it names is not there: no form helps."""
        return self.status in (401, 403, 404)


class Api:
    """A client of the API. Every call raises ApiError."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def get(self, path: str, **params: Any) -> Any:
        """The JSON of a GET; parameters that are None are left out."""
        given = {name: value for name, value in params.items() if value is not None}
        return _json(await self._http.get(path, params=given))

    async def post(self, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of a POST."""
        return _json(await self._http.post(path, json=body, headers=headers))


async def _api(request: Request) -> AsyncIterator[Api]:
    """The API of the application that handles a request, called on behalf of its sender."""
    client = (request.client.host, request.client.port) if request.client else ("127.0.0.1", 0)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(request.app, raise_app_exceptions=False, client=client),
        base_url=str(request.base_url),
        headers={name: request.headers[name] for name in _FORWARDED_HEADERS if name in request.headers},
        trust_env=False,
    ) as http:
        yield Api(http)


ApiOf = Annotated[Api, Depends(_api)]


def _json(answer: httpx.Response) -> Any:
    if answer.is_success:
        return answer.json()
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict) or "detail" not in problem:
        problem = {"title": answer.reason_phrase, "status": answer.status_code, "detail": answer.text[:200]}
    raise ApiError(answer.status_code, problem)
