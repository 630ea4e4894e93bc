"""Who may come in: keys and roles, and, for a service that asks for no key, only callers from this machine itself.

Without a key, a browser on this machine is the danger: any page may make it post here, or reach the service under a
name of the page's own that leads to 127.0.0.1 (DNS rebinding). So the Host must be this machine's then, and whatever
a page of another origin would write is refused. A browser never adds a key by itself.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.contract.network import is_loopback
from service.http.keys import Keys, Role
from service.http.problems import RETRY_AFTER, problem

# They tell nothing of any job, and are asked for by those who have no key.
OPEN = frozenset(
    {"/healthz", "/readyz", "/docs", "/openapi.json"}
    | {"/signin", "/static/winnow.css", "/static/winnow.js", "/static/icon.svg"}
)
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="winnow"'}
_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Caller:
    """Who calls: the owner of what is submitted, None without a key; `sees_all` jobs or the owner's alone."""

    owner: str | None
    sees_all: bool

    def sees(self, owner: str | None) -> bool:
        """Whether an owner's jobs are there for this caller."""
        return self.sees_all or self.owner == owner


ANYONE = Caller(None, sees_all=True)


class Doors:
    """ASGI middleware: every path but the few that tell nothing of jobs takes a key, or a caller on this machine.

    The `Caller` is at `request.state.caller`. With `always`, a key is needed even where none was ever made.
    """

    def __init__(self, app: ASGIApp, keys: Keys, *, always: bool) -> None:
        self._app = app
        self._keys = keys
        self._always = always

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        headers, writes = Headers(scope=scope), scope["method"] not in _READING
        refused: tuple[int, str, dict[str, str]] | None = None
        caller = ANYONE
        try:
            if writes and from_elsewhere(headers):
                refused = (403, "a page of another origin cannot write here", {})
            elif self._always or await run_in_threadpool(self._keys.needed):
                caller, refused = await self._known(headers, "submit" if writes else "read")
            elif not is_loopback(_host(headers.get("host", ""))):
                detail = "without a key this service answers only to the names of this machine: 127.0.0.1, localhost"
                refused = (403, f"{detail}; make a key with `winnow keys make` to reach it by another", {})
        except OSError:
            refused = (503, "the service's workspace cannot be reached: try again shortly", RETRY_AFTER)
        if refused is not None:
            await problem(Request(scope), *refused)(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    async def _known(self, headers: Headers, role: Role) -> tuple[Caller, tuple[int, str, dict[str, str]] | None]:
        """The caller that a key stands for, or why there is none."""
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            return ANYONE, (401, "this service takes a key: send it as Authorization: Bearer KEY", _CHALLENGE)
        key = await run_in_threadpool(self._keys.find, text.strip())
        if key is None:
            return ANYONE, (401, "the key is none of this service's, or was revoked", _CHALLENGE)
        if not key.may(role):
            return ANYONE, (403, f"this takes a key with the role {role}, and yours has {key.role}", {})
        return Caller(key.owner, sees_all=key.role == "admin"), None


def from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin sends this."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    try:
        parts = urlsplit(origin)
        port = _PORTS.get(parts.scheme, "")
        return not parts.netloc or _bare(parts.netloc, port) != _bare(headers.get("host", ""), port)
    except ValueError:
        return True


def _bare(authority: str, port: str) -> str:
    return authority.lower().removesuffix(port)


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    return header[: header.find("]") + 1] if header.startswith("[") else header.partition(":")[0]
