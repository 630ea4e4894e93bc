"""A visitor of a service that asks for keys signs in once, and is then known by what the browser keeps."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service.app import create_app
from service.jobs import Jobs
from service.page.signin import SignIn, own_address
from service.queue import connect
from service.redis_server import RedisServer
from service.workspace import Workspace


class Door:
    """Lets in who has the key, and all to the form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = scope["type"] == "http"
        if http and scope["path"] != "/signin" and Headers(scope=scope).get("authorization") != "Bearer secret":
            await JSONResponse({"detail": "a key is needed"}, 401)(scope, receive, send)
            return
        await self._app(scope, receive, send)


@pytest.fixture
def visitor(tmp_path: Path) -> Any:
    server = RedisServer(tmp_path / "redis")
    server.start()
    jobs = Jobs(Workspace(str(tmp_path / "workspace")), connect(server.url))
    headers = {"accept": "text/html", "origin": "http://testserver"}
    with TestClient(SignIn(Door(create_app(jobs))), headers=headers) as client:
        yield client
    server.close()


def test_a_visitor_signs_in(visitor: TestClient) -> None:
    answer = visitor.get("/?status=failed")
    assert answer.url.path == "/signin"
    assert "none of this service's" not in answer.text
    form = {"key": "wrong", "next": "/?status=failed"}
    assert "none of this service's" in visitor.post("/signin", data=form).text
    answer = visitor.post("/signin", data=form | {"key": "secret"})
    assert str(answer.url).endswith("/?status=failed")
    assert "No job is failed" in answer.text
    (kept,) = (response.headers["set-cookie"] for response in answer.history)
    assert "HttpOnly" in kept
    assert "SameSite=strict" in kept
    assert visitor.get("/v1/jobs").json()["data"] == []


def test_the_api_refuses_as_ever(visitor: TestClient) -> None:
    assert visitor.get("/v1/jobs").status_code == 401
    assert visitor.get("/", headers={"accept": "*/*"}).status_code == 401


def test_other_sites_sign_nobody_in(visitor: TestClient) -> None:
    headers = {"origin": "https://elsewhere.example"}
    assert visitor.post("/signin", data={"key": "secret"}, headers=headers).status_code == 403
    assert "winnow_key" not in visitor.cookies


@pytest.mark.parametrize(
    "text", ["https://elsewhere.example", "//elsewhere.example", "/\\elsewhere", "javascript:x", ""]
)
def test_after_signing_in_one_stays_here(text: str) -> None:
    assert own_address(text) == "/"
    assert own_address("/jobs/a?rate=0.5") == "/jobs/a?rate=0.5"
