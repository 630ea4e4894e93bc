"""The surprisal of each token of a text, from the API's scoring of texts; where that is away, a line that says so."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from service.page.api import Api, Refused

LEVELS = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0)  # nats, between the shades


class Shaded(NamedTuple):
    """A token: its text, its nll in nats, and its shade, from 0 to the number of LEVELS."""

    text: str
    nll: float
    level: int


async def surprisal(api: Api, job_id: str, texts: Sequence[str]) -> tuple[list[list[Shaded]], str]:
    """The tokens of each text as the job's reference reads them; or none, and the reason."""
    try:
        answer = await api.post("/v1/score", {"texts": list(texts), "job": job_id, "tokens": True})
    except Refused as refused:
        if refused.status in (404, 405):
            return [], "This service does not score texts, so their tokens cannot be shaded."
        if refused.status == 503:
            return [], "No worker can score texts right now, so their tokens cannot be shaded. Try again shortly."
        return [], f"The texts cannot be scored: {refused}"
    return [[_shaded(token) for token in score["tokens"]] for score in answer["scores"]], ""


def _shaded(token: dict[str, Any]) -> Shaded:
    nll = float(token["nll"])
    return Shaded(str(token["text"]), nll, sum(nll >= edge for edge in LEVELS))
