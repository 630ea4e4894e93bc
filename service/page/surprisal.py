"""The surprisal of each token of a text, from the API's scoring of single texts."""

from typing import Any

from service.page.api import Api, ApiError

LEVELS = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0)  # nats, the borders between shades


async def surprisal(api: Api, job_id: str, text: str) -> tuple[list[dict[str, Any]], str]:
    """The tokens of a text with their NLL in nats, by the job's reference, and ""; or an empty list and the reason."""
    try:
        answer = await api.post("/v1/score", {"texts": [text], "job": job_id, "tokens": True})
    except ApiError as error:
        if error.status == 503:
            return [], "No worker can score the text right now. Try again shortly."
        return [], f"The text cannot be scored: {error}"
    (score,) = answer["documents"]
    if not score["tokens"]:
        return [], f"The text has no score: {score['reject']}"
    return score["tokens"], ""


def level(nll: float | None) -> int:
    """The shade of a token, from 0 to len(LEVELS); 0 for one that is only context."""
    return 0 if nll is None else sum(nll >= border for border in LEVELS)
