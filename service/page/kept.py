"""What a preview or selection of the API keeps: its kind, and its range of perplexity or of another score."""

import json
import math
from typing import Any

from service.page.perplexity_chart import PerplexityRange
from service.page.score_charts import ValueRange

_SEVERAL = ("stages", "difference", "rank_sum")


def by_perplexity(kept: dict[str, Any]) -> bool:
    """Whether the ranks of a preview or a selection are those by perplexity."""
    return kept["criterion"] != "random" and all(kept.get(name) is None for name in ("per", "score", *_SEVERAL))


def limits_of(kept: dict[str, Any]) -> dict[str, Any] | None:
    """The stage of a preview or selection with thresholds on one score and nothing else; None of any other."""
    stages = list(kept.get("stages") or [])
    return stages[0] if len(stages) == 1 and stages[0].get("criterion") is None else None


def score_of(kept: dict[str, Any]) -> str | None:
    """The score of a preview or selection by one score, or by thresholds on one; None of any other."""
    limits = limits_of(kept)
    return kept.get("score") if limits is None else limits["score"]


def composite(kept: dict[str, Any]) -> str | None:
    """The fields of a preview or selection by several scores as JSON; None of any other one."""
    if all(kept.get(name) is None for name in _SEVERAL):
        return None
    shown = _SEVERAL[:1] if kept.get("stages") is not None else (*_SEVERAL, "criterion", "rate", "unit", "within")
    return json.dumps({name: kept[name] for name in shown if kept.get(name) is not None}, indent=1)


def partly_kept(kept: dict[str, Any]) -> str:
    """Why a preview or selection does not keep all documents in its range of perplexity; empty if it does."""
    if kept["criterion"] == "random":
        return "drawn at random"
    reasons = ["by NLL per byte"] if kept.get("per") is not None else []
    if score_of(kept) is not None:
        reasons.append(f"by {score_of(kept)}")
    elif composite(kept) is not None:
        reasons.append("by several scores")
    return ", ".join([*reasons, *(["with thresholds per domain"] if kept["within"] is not None else [])])


def kept_range(kept: dict[str, Any], documents: int) -> PerplexityRange | None:
    """The perplexities that a preview or a selection of so many documents keeps, or None if it keeps nothing."""
    if kept["perplexity_min"] is None:
        return None
    low, high = kept["perplexity_min"], infinite_if_null(kept["perplexity_max"])
    start, stop = kept["start"], kept["stop"]
    if start is None or stop is None or not by_perplexity(kept):
        return PerplexityRange(low, high, None, None)
    first, last = _percentiles(start, stop, documents)
    return PerplexityRange(low, high, first, last)


def value_range(preview: dict[str, Any]) -> ValueRange | None:
    """The values of its score that a preview keeps, or None if it keeps nothing or has thresholds per domain."""
    if preview.get("value_min") is None or preview["start"] is None:
        return None
    first, last = _percentiles(preview["start"], preview["stop"], preview["ranked_documents"])
    return ValueRange(preview["value_min"], infinite_if_null(preview["value_max"]), first, last)


def infinite_if_null(value: float | None) -> float:
    """JSON has no infinity: the API sends null for a perplexity that float64 cannot hold."""
    return math.inf if value is None else value


def _percentiles(start: int, stop: int, documents: int) -> tuple[float | None, float | None]:
    """The percentiles of the first and the last rank; None at an end where nothing is left out."""
    return 100 * start / documents if start > 0 else None, 100 * stop / documents if stop < documents else None
