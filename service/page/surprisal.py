"""The surprisal of each token of a text, from the API's scoring of single texts."""

from typing import Any, NamedTuple

from service.page.api import Api, ApiError

LEVELS = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0)  # nats, the borders between shades


class ShadedToken(NamedTuple):
    """A token: its text, its nll in nats (None if it is only context), and its shade, from 0 to len(LEVELS)."""

    text: str
    nll: float | None
    level: int


async def surprisal(api: Api, job_id: str, text: str) -> tuple[list[ShadedToken], str]:
    """The tokens of a text as the job's reference scores them and "", or an empty list and the reason."""
    try:
        answer = await api.post("/v1/score", {"texts": [text], "job": job_id, "tokens": True})
    except ApiError as error:
        if error.status == 503:
            return [], "No worker can score the text right now. Try again shortly."
        return [], f"The text cannot be scored: {error}"
    (score,) = answer["documents"]
    if not score["tokens"]:
        return [], f"The text has no score: {score['reject']}"
    return [_shaded(token) for token in score["tokens"]], ""


def _shaded(token: dict[str, Any]) -> ShadedToken:
    nll = token["nll"]
    return ShadedToken(str(token["text"]), nll, 0 if nll is None else sum(nll >= border for border in LEVELS))
