"""ASGI middleware around the whole API: a limit on request bodies, and metrics of requests."""

import time
from abc import ABC, abstractmethod

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem

BODY_MAX = 1 << 20  # bytes
_TOO_LARGE = f"a request body may have at most {BODY_MAX:,} bytes"
_LABELS = ("method", "route", "status")
# Any other method is counted as "other": callers without a key can send any word, and each label stays in memory.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMiddleware(ABC):
    """ASGI middleware for HTTP requests; everything else, such as the application's lifespan, passes through."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "http":
            await self.handle(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    @abstractmethod
    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on to `self.app`."""


class BodyLimit(HttpMiddleware):
    """Refuses request bodies over BODY_MAX, with or without a Content-Length."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 413 if the body is too large, else passes the request on."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > BODY_MAX:
            await problem(Request(scope), 413, _TOO_LARGE)(scope, receive, send)
            return
        size = 0

        async def counted_receive() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > BODY_MAX:
                raise HTTPException(413, _TOO_LARGE)
            return message

        await self.app(scope, counted_receive, send)


class RequestMetrics(HttpMiddleware):
    """Counts and times requests by route template, so that ids do not multiply the time series."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        super().__init__(app)
        self._requests = Counter("winnow_http_requests", "Requests", _LABELS, registry=registry)
        self._seconds = Histogram("winnow_http_request_seconds", "Time to answer", _LABELS[:2], registry=registry)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and records its status and duration."""
        status, started = 500, time.perf_counter()

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._requests.labels(method, route, status).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - started)
