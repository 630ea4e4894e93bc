"""The API with rules of a test's choice on a real server, and keys and clients for it."""

import atexit
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from service.contract.permissions import Rules
from service.http.keys import Keys, Role
from service.jobs.jobs import Jobs
from service.run.app import create_app
from tests.service.pool import NO_TLS, until


class _Server:
    """A server that runs one app after the other: starting and stopping one takes longer than most tests."""

    def __init__(self) -> None:
        self.app: FastAPI | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as the service's own
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        config = uvicorn.Config(
            self._call, log_level="critical", timeout_graceful_shutdown=1, interface="asgi3", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        atexit.register(self.close)

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)

    def close(self) -> None:
        """Ends the server."""
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()


_idle: list[_Server] = []


@contextmanager
def serving(jobs: Jobs, rules: Rules | None = None, *, always_keys: bool = False) -> Iterator[str]:
    """Runs the API and yields its URL."""
    server = _idle.pop() if _idle else _Server()
    server.app = create_app(jobs, rules, always_keys=always_keys)
    try:
        yield server.url
    finally:
        server.app = None
        _idle.append(server)


def bearer(jobs: Jobs, role: Role, owner: str | None = None) -> dict[str, str]:
    """The header of a new key."""
    return {"Authorization": f"Bearer {Keys(jobs.workspace.storage).create('test', role, owner)[1]}"}


def client(url: str, headers: dict[str, str] | None = None) -> httpx.Client:
    """A client of the API."""
    return httpx.Client(base_url=url, headers=headers, timeout=60, verify=NO_TLS)
