"""The API with rules of a test's choice on a real server, and keys and clients for it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn

from service.contract.permissions import Rules
from service.http.keys import Keys, Role
from service.jobs.jobs import Jobs
from service.run.app import create_app
from tests.service.pool import until


@contextmanager
def serving(jobs: Jobs, rules: Rules | None = None, *, always_keys: bool = False) -> Iterator[str]:
    """Runs the API and yields its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as the service's own
    app = create_app(jobs, rules, always_keys=always_keys)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def bearer(jobs: Jobs, role: Role, owner: str | None = None) -> dict[str, str]:
    """The header of a new key."""
    return {"Authorization": f"Bearer {Keys(jobs.workspace.storage).create('test', role, owner)[1]}"}


def client(url: str, headers: dict[str, str] | None = None) -> httpx.Client:
    """A client of the API."""
    return httpx.Client(base_url=url, headers=headers, timeout=60)
