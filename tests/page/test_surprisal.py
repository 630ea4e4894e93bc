"""Tokens shaded by surprisal: the values of a worker's scoring, or the reason why there are none."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.contract.schemas import JobRequest
from service.http.routes import score
from service.jobs.jobs import Jobs
from service.page.api import Api
from service.page.surprisal import LEVELS, level, surprisal
from service.queue.leases import connect
from service.run.app import create_app
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace
from tests.page.serving import Serving


def asked(http: httpx.AsyncClient, job_id: str, text: str) -> tuple[list[dict[str, Any]], str]:
    async def ask() -> tuple[list[dict[str, Any]], str]:
        async with http:
            return await surprisal(Api(http), job_id, text)

    return asyncio.run(ask())


def test_the_tokens_of_a_document_are_shaded_as_it_was_scored(serving: Serving, scored: dict[str, Any]) -> None:
    for rank in (0, 200, 399):
        found = serving.api.get(f"/v1/jobs/{scored['id']}/documents", params={"rank": rank, "count": 1}).json()
        (row,) = found["data"]
        tokens, away = asked(httpx.AsyncClient(base_url=serving.url, timeout=60), scored["id"], row["text"])
        assert away == ""
        assert "".join(token["text"] for token in tokens) == row["text"]
        surprise = [token["nll"] for token in tokens if token["nll"] is not None]
        assert len(surprise) == row["n_tokens"]
        assert sum(surprise) == pytest.approx(row["nll"])
        edges = (0.0, *LEVELS, float("inf"))
        assert all(edges[level(nll)] <= nll < edges[level(nll) + 1] for nll in surprise)


def test_a_text_without_a_score_is_said_to_be(serving: Serving, scored: dict[str, Any]) -> None:
    tokens, away = asked(httpx.AsyncClient(base_url=serving.url, timeout=60), scored["id"], "")
    assert (tokens, away) == ([], "The text has no score: empty text")


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[tuple[FastAPI, str]]:
    """An API of which no worker takes anything, and a job of its."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    client = connect(server.url)
    jobs = Jobs(Workspace(str(tmp_path / "workspace")), client)
    job, _ = jobs.create(JobRequest.model_validate({"corpus": {"paths": ["/nowhere.parquet"]}}))
    yield create_app(jobs), job.id
    client.close()
    server.close()


@pytest.mark.parametrize(("text", "said"), [("a text", "Try again shortly"), ("a" * 100_001, "submit a job")])
def test_it_is_said_why_there_is_none(
    idle: tuple[FastAPI, str], text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score, "WAIT_SECONDS", 0.2)
    app, job = idle
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
    tokens, away = asked(http, job, text)
    assert tokens == []
    assert said in away
