"""An ablation in the page's words: the values of its templates, and its report as one HTML file."""

from typing import Any

from markupsafe import Markup

from pruner.ablation.result import AblationResult
from service.page import ablation_charts
from service.page.render import FOLDER, render


def ablation_html(result: AblationResult) -> str:
    """The report as one HTML file without scripts or links to a service."""
    style = Markup((FOLDER / "static" / "winnow.css").read_text())  # noqa: S704 (the page's own file)
    return render("ablation_report.html", style=style, **result_values(result.model_dump(mode="json")))


def result_values(result: dict[str, Any]) -> dict[str, Any]:
    """The template values of a complete ablation."""
    arms = {arm["name"]: arm for arm in result["arms"]}
    compared = [arm for arm in result["arms"] if arm["name"] != "all"]
    return {
        "result": result,
        "forests": [ablation_charts.forest(result), ablation_charts.forest(result, width=400)],
        "curves": [ablation_charts.curves(result, width=760), ablation_charts.curves(result, width=400)],
        "compared": compared,
        "rows": [
            *(_row("domain", name, value, compared) for name, value in arms["all"]["heldout"].items() if name != "all"),
            *(_row("task", name, score["bits_per_byte"], compared) for name, score in arms["all"]["tasks"].items()),
        ],
        "all": arms["all"],
    }


def _row(kind: str, name: str, value: float, compared: list[dict[str, Any]]) -> dict[str, Any]:
    """A domain or a task: the value of `all`, and each arm's difference, better or worse where it is clear."""
    cells = []
    for arm in compared:
        found = arm["differences"][name]
        clear = found["low"] is not None and (found["high"] < 0 or found["low"] > 0)
        cells.append(found | {"word": "" if not clear else "better" if found["value"] < 0 else "worse"})
    return {"kind": kind, "name": name, "value": value, "cells": cells}
