"""Tokens shaded by their surprisal: what the API's scoring says, and a clear line where it is away."""

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from service.page.api import Api
from service.page.surprisal import Shaded, surprisal


def asked(app: FastAPI) -> tuple[list[Shaded], str]:
    """The surprisal of a text, from an application that stands in for the API."""

    async def ask() -> tuple[list[Shaded], str]:
        async with Api(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")) as api:
            return await surprisal(api, "job", "one two three")

    return asyncio.run(ask())


def test_each_token_has_a_shade() -> None:
    app = FastAPI()

    @app.post("/v1/score")
    def score(body: dict[str, Any]) -> dict[str, Any]:
        assert body == {"texts": ["one two three"], "job": "job", "tokens": True}
        tokens = [{"text": "one", "nll": None}, {"text": " two", "nll": 9.0}, {"text": " three", "nll": 1.0}]
        return {"documents": [{"tokens": tokens, "reject": None}]}

    tokens, away = asked(app)
    assert tokens == [Shaded("one", None, 0), Shaded(" two", 9.0, 7), Shaded(" three", 1.0, 2)]
    assert away == ""


def test_a_text_without_a_score_is_said_to_be() -> None:
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> dict[str, Any]:
        return {"documents": [{"tokens": None, "reject": "empty text"}]}

    assert asked(app) == ([], "The text has no score: empty text")


@pytest.mark.parametrize(("status", "said"), [(404, "does not score texts"), (503, "Try again"), (422, "too long")])
def test_it_is_said_why_there_is_none(status: int, said: str) -> None:
    app = FastAPI()

    @app.post("/v1/score")
    def score() -> Response:
        return Response('{"detail": "the text is too long"}', status, media_type="application/problem+json")

    tokens, away = asked(app)
    assert tokens == []
    assert said in away
