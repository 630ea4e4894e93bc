"""The surprisal of each token of a text, from the API's scoring of texts; where that is away, a line that says so."""

from typing import Any, NamedTuple

from service.page.api import Api, Refused

LEVELS = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0)  # nats, between the shades


class Shaded(NamedTuple):
    """A token: its text, its nll in nats (None of one that is only context), its shade, from 0 to that of LEVELS."""

    text: str
    nll: float | None
    level: int


async def surprisal(api: Api, job_id: str, text: str) -> tuple[list[Shaded], str]:
    """The tokens of a text as the job's reference reads them; or none, and the reason."""
    try:
        answer = await api.post("/v1/score", {"texts": [text], "job": job_id, "tokens": True})
    except Refused as refused:
        if refused.status == 503:
            return [], "No worker can score texts right now, so their tokens cannot be shaded. Try again shortly."
        return [], f"The text cannot be scored: {refused}"
    (score,) = answer["documents"]
    if not score["tokens"]:
        return [], f"The text has no score: {score['reject']}"
    return [_shaded(token) for token in score["tokens"]], ""


def _shaded(token: dict[str, Any]) -> Shaded:
    nll = token["nll"]
    return Shaded(str(token["text"]), nll, 0 if nll is None else sum(nll >= edge for edge in LEVELS))
