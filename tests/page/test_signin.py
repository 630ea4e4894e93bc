"""Signing in to the page of a service that requires keys."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from markupsafe import escape

from service.contract.permissions import Rules
from service.http.keys import Keys
from service.jobs.jobs import Jobs
from service.page.signin import local_address
from service.queue.leases import connect
from service.run.app import create_app
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    client = connect(server.url)
    yield Jobs(Workspace(str(tmp_path / "workspace")), client)
    client.close()
    server.close()


@pytest.fixture
def visitor(jobs: Jobs) -> Iterator[TestClient]:
    """A browser at a service that requires keys."""
    headers = {"accept": "text/html", "origin": "http://testserver"}
    with TestClient(create_app(jobs, always_keys=True), headers=headers) as client:
        yield client


def key(jobs: Jobs, role: Any = "submit") -> str:
    return Keys(jobs.workspace.storage).create("visitor", role)[1]


def test_a_visitor_signs_in(visitor: TestClient, jobs: Jobs) -> None:
    answer = visitor.get("/?status=failed")
    assert answer.url.path == "/signin"
    assert "unknown or was revoked" not in answer.text
    form = {"key": "wrong", "next": "/?status=failed"}
    assert "unknown or was revoked" in visitor.post("/signin", data=form).text
    assert "unknown or was revoked" in visitor.post("/signin", data=form | {"key": "\u201cwinnow_\u201d"}).text
    answer = visitor.post("/signin", data=form | {"key": key(jobs)})
    assert str(answer.url).endswith("/?status=failed")
    assert "No job is failed" in answer.text
    (kept,) = (response.headers["set-cookie"] for response in answer.history)
    assert "HttpOnly" in kept
    assert "SameSite=strict" in kept
    assert visitor.get("/v1/jobs").json()["data"] == []


def test_a_visitor_sees_and_makes_jobs_of_the_key(visitor: TestClient, jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"text": "a text"}\n')
    visitor.post("/signin", data={"key": key(jobs)})
    answer = visitor.post("/jobs", data={"paths": str(tmp_path / "corpus.jsonl"), "criterion": "low", "rates": "0.5"})
    assert answer.status_code == 200, answer.text
    (made,) = visitor.get("/v1/jobs").json()["data"]
    assert answer.url.path == f"/jobs/{made['id']}"
    visitor.post("/signin", data={"key": key(jobs)})
    assert visitor.get(f"/jobs/{made['id']}").status_code == 404
    visitor.post("/signin", data={"key": key(jobs, "admin")})
    assert visitor.get(f"/jobs/{made['id']}").status_code == 200
    visitor.post("/signin", data={"key": key(jobs, "read")})
    assert visitor.post(f"/jobs/{made['id']}/cancel").status_code == 403


def test_a_look_at_a_corpus_takes_the_key_and_the_roots_of_the_api(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open/corpus.jsonl").write_text('{"text": "an open text"}\n')
    (tmp_path / "secret.jsonl").write_text('{"text": "a secret text"}\n')
    (tmp_path / "workspace/rows.jsonl").write_text('{"text": "a secret text"}\n')
    (tmp_path / "open/link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    headers = {"accept": "text/html", "origin": "http://testserver"}
    rules = Rules(corpus_roots=(str(tmp_path / "open"), jobs.workspace.storage.url))
    with TestClient(create_app(jobs, rules, always_keys=True), headers=headers) as visitor:
        form = {"paths": str(tmp_path / "open/corpus.jsonl")}
        assert visitor.post("/new", data=form).url.path == "/signin"
        visitor.post("/signin", data={"key": key(jobs, "read")})
        assert visitor.post("/new", data=form).status_code == 403
        visitor.post("/signin", data={"key": key(jobs)})
        assert "an open text" in visitor.post("/new", data=form).text
        for path in ("secret.jsonl", "open/link.jsonl", "workspace/rows.jsonl"):
            refused = visitor.post("/v1/corpora/check", json={"paths": [str(tmp_path / path)]})
            answer = visitor.post("/new", data={"paths": str(tmp_path / path)})
            assert answer.status_code == refused.status_code == 422
            assert escape(refused.json()["detail"]) in answer.text
            assert "a secret text" not in answer.text


def test_the_api_refuses_as_ever(visitor: TestClient) -> None:
    assert visitor.get("/v1/jobs").status_code == 401
    assert visitor.get("/", headers={"accept": "*/*"}).status_code == 401


def test_the_form_and_its_looks_need_no_key(visitor: TestClient) -> None:
    for path in ("/signin", "/static/winnow.css", "/static/winnow.js", "/static/icon.svg"):
        assert visitor.get(path, headers={"accept": "*/*"}).status_code == 200


def test_forms_of_other_sites_are_refused(visitor: TestClient, jobs: Jobs) -> None:
    elsewhere = {"origin": "https://elsewhere.example"}
    assert visitor.post("/signin", data={"key": key(jobs)}, headers=elsewhere).status_code == 403
    assert "winnow_key" not in visitor.cookies
    visitor.post("/signin", data={"key": key(jobs)})
    for form in ("/jobs", "/new"):
        assert visitor.post(form, data={"paths": "x"}, headers=elsewhere).status_code == 403


@pytest.mark.parametrize(
    "text", ["https://elsewhere.example", "//elsewhere.example", "/\\elsewhere", "javascript:x", "http://[", ""]
)
def test_after_signing_in_one_stays_here(text: str) -> None:
    assert local_address(text) == "/"
    assert local_address("/jobs/a?rate=0.5") == "/jobs/a?rate=0.5"
