"""Authentication: API keys with roles or, while a service has no keys, requests from this machine only.

Without keys the danger is a browser on this machine: any web page can make it send requests here, also under a host
name of the page's own that resolves to 127.0.0.1 (DNS rebinding). So the Host header must then name this machine, and
writes from pages of another origin are always refused. Browsers do not add keys to requests automatically.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from service.contract.network import is_loopback
from service.http.keys import Keys, Role
from service.http.middleware import HttpMiddleware
from service.http.problems import RETRY_AFTER, STORAGE_UNREACHABLE, problem

# Paths that show nothing of any job and that clients without a key need.
PUBLIC_PATHS = frozenset(
    {"/healthz", "/readyz", "/docs", "/openapi.json"}
    | {"/signin", "/static/winnow.css", "/static/winnow.js", "/static/icon.svg", "/static/api.js"}
    | {"/static/swagger/swagger-ui-bundle.js", "/static/swagger/swagger-ui.css"}
)
_READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="winnow"'}
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Caller:
    """The sender of a request. `owner` is the id of the key that owns its jobs, None in a service without keys."""

    owner: str | None
    sees_all: bool

    def sees(self, owner: str | None) -> bool:
        """Whether the caller may see a job of this owner."""
        return self.sees_all or self.owner == owner


LOCAL_CALLER = Caller(None, sees_all=True)


class AuthMiddleware(HttpMiddleware):
    """Requires a valid key, or a caller on this machine, on all paths but PUBLIC_PATHS.

    Sets `request.state.caller` to the `Caller`. With `always_keys` a key is required even if none was ever made.
    """

    def __init__(self, app: ASGIApp, keys: Keys, *, always_keys: bool) -> None:
        super().__init__(app)
        self._keys = keys
        self._always_keys = always_keys

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with its caller, or answers 401, 403 or 503."""
        if scope["path"] not in PUBLIC_PATHS:
            try:
                caller = await self._authenticate(Headers(scope=scope), scope["method"] not in _READ_METHODS)
            except HTTPException as refused:
                headers = dict(refused.headers or {})
                await problem(Request(scope), refused.status_code, refused.detail, headers)(scope, receive, send)
                return
            except OSError:
                await problem(Request(scope), 503, STORAGE_UNREACHABLE, RETRY_AFTER)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self.app(scope, receive, send)

    async def _authenticate(self, headers: Headers, writes: bool) -> Caller:
        """The caller of a request. Raises HTTPException, and OSError if the keys cannot be read."""
        if writes and is_cross_origin(headers):
            raise HTTPException(403, "a page of another origin cannot write here")
        if self._always_keys or await run_in_threadpool(self._keys.required):
            return await self._find_caller(headers, "submit" if writes else "read")
        if not is_loopback(_host_name(headers.get("host", ""))):
            raise HTTPException(
                403,
                "without keys this service answers only under the names of this machine (127.0.0.1, localhost); "
                "to use another name make a key with `winnow keys make`",
            )
        return LOCAL_CALLER

    async def _find_caller(self, headers: Headers, role: Role) -> Caller:
        """The caller that the request's key stands for. Raises HTTPException."""
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            raise HTTPException(
                401, "this service requires a key: send the header Authorization: Bearer KEY", _CHALLENGE
            )
        key = await run_in_threadpool(self._keys.find, text.strip())
        if key is None:
            raise HTTPException(401, "the key is unknown or was revoked", _CHALLENGE)
        if not key.allows(role):
            raise HTTPException(403, f"this needs a key with the role {role}; the role of this key is {key.role}")
        return Caller(key.owner, sees_all=key.role == "admin")


def is_cross_origin(headers: Headers) -> bool:
    """Whether the browser's headers say that a page of another origin sent the request."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    try:
        parts = urlsplit(origin)
        port = _DEFAULT_PORTS.get(parts.scheme, "")
        own = headers.get("host", "")
        return not parts.netloc or _without_port(parts.netloc, port) != _without_port(own, port)
    except ValueError:
        return True


def _without_port(authority: str, port: str) -> str:
    return authority.lower().removesuffix(port)


def _host_name(header: str) -> str:
    """The name or address in a Host header, without the port."""
    return header[: header.find("]") + 1] if header.startswith("[") else header.partition(":")[0]
