"""The view model of a job's scores: distributions with what selections keep, rank correlations, overlaps."""

from collections.abc import Iterable
from typing import Any

from service.page import score_charts
from service.page.format import domain_name

_SELECTIONS_MAX = 6  # of each score's small charts
_OVERLAPS_MAX = 45  # rows
_LEVELS = 5  # of the shade of a correlation


def score_values(job: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """The template values of the part about scores; without scores for the report of an earlier version."""
    scores = report.get("scores", [])
    main = main_scores(job, report)
    made = [selection["id"] for selection in report["selections"]]
    blocks = [_block(score, made[:_SELECTIONS_MAX]) for score in scores]
    pairs = report["correlations"]["pairs"] if scores else []
    overlaps = report.get("overlaps", [])
    return {
        "main_blocks": [block for block in blocks if block["name"] in main],
        "more_blocks": [block for block in blocks if block["name"] not in main],
        "matrix": _matrix([score["name"] for score in scores], pairs),
        "correlations": report.get("correlations"),
        "by_domain": _by_domain(main, pairs),
        "overlaps": overlaps[:_OVERLAPS_MAX],
        "overlaps_count": len(overlaps),
    }


def main_scores(job: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """The scores to show first: perplexity, the further scorers, and what the selections use besides."""
    used = {"perplexity", *(job["request"].get("scores") or {})}
    for made in report["selections"]:
        used |= {made.get("score"), *(made.get("difference") or ()), *(name for name, _ in made.get("rank_sum") or ())}
        used |= {stage.get("score") for stage in made.get("stages") or ()}
    return [score["name"] for score in report.get("scores", []) if score["name"] in used]


def _block(score: dict[str, Any], selections: Iterable[str]) -> dict[str, Any]:
    kept = [(made, score["bin_kept"][made]) for made in selections if made in score["bin_kept"]]
    charts = [(made, sum(counts), score_charts.small(score, counts, made)) for made, counts in kept]
    return score | {"charts": charts}


def _matrix(names: list[str], pairs: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """A row for each score: its correlations with those before it, None with itself."""
    found = {tuple(pair["scores"]): _cell(pair["rank_correlation"]) for pair in pairs}
    return [(name, [*(found[other, name] for other in names[:at]), None]) for at, name in enumerate(names)]


def _cell(value: float | None) -> dict[str, Any]:
    """A correlation with the class of its shade."""
    if value is None:
        return {"text": "–", "shade": ""}
    level = min(_LEVELS, round(abs(value) * _LEVELS))
    return {"text": f"{value:+.2f}".replace("-", "−"), "shade": f"{'p' if value > 0 else 'm'}{level}" if level else ""}


def _by_domain(main: list[str], pairs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """A row for each domain with the correlations of the main scores, or of the one with all others."""
    shown = [pair for pair in pairs if set(pair["scores"]) <= set(main)]
    shown = shown or [pair for pair in pairs if set(pair["scores"]) & set(main)]
    if not shown or not shown[0]["domains"]:
        return None
    rows = [
        (domain_name(inside), inside["documents"], [_cell(pair["domains"][at]["rank_correlation"]) for pair in shown])
        for at, inside in enumerate(shown[0]["domains"])
    ]
    return {
        "pairs": [pair["scores"] for pair in shown],
        "all": [_cell(p["rank_correlation"]) for p in shown],
        "rows": rows,
    }
