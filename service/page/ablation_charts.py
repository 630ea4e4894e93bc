"""The charts of an ablation, as SVG: the arms with their intervals, and the measure over tokens."""

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from service.page.charts import svg, svg_text
from service.page.format import compact, visible

_LINE = 28  # px, height of an arm
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")  # arms differ by these besides colours


def forest(result: dict[str, Any], *, width: int = 760) -> Markup:
    """Each arm's difference to `all` with its interval, over the band that the interval of the noise arm reaches to."""
    arms = [arm for arm in result["arms"] if arm["name"] != "all"]
    left, right, top = (150, 150, 34) if width > 500 else (110, 12, 34)
    band = max(map(abs, _interval(result["noise"]["difference"])))
    ends = [end for arm in arms for end in _interval(arm["difference"])]
    most = max([abs(end) for end in ends] + [band, 1e-4]) * 1.08

    def x(value: float) -> float:
        return left + (width - left - right) * (value + most) / (2 * most)

    bottom = top + _LINE * len(arms)
    out = [
        f'<rect class="all" x="{x(-band):.1f}" y="{top}" width="{x(band) - x(-band):.1f}" height="{bottom - top}" '
        'fill-opacity="0.35"/>',
        f'<line class="axis" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{top - 6}" y2="{bottom + 4}"/>',
        svg_text(x(0) - 8, 16, "← better than all", "end"),
        svg_text(x(0) + 8, 16, "worse →", "start"),
    ]
    for number, arm in enumerate(arms):
        y, found = top + _LINE * number + _LINE / 2, arm["difference"]
        low, high = _interval(found)
        kind = "gain" if high < 0 else "loss" if low > 0 else "chart-row"
        mark = {"gain": "after up", "loss": "after down", "chart-row": "chart-row"}[kind]
        stroke = "axis" if kind == "chart-row" else kind
        out.append(f'<line class="{stroke}" stroke-width="3" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}"/>')
        out.append(f'<circle class="{mark}" cx="{x(found["value"]):.1f}" cy="{y}" r="5"/>')
        out.append(svg_text(left - 10, y + 4, visible(arm["name"])[:24], "end", "strong" if kind == "gain" else ""))
        if width > 500:
            out.append(svg_text(width - right + 10, y + 4, f"{found['value']:+.4f}", "start"))
    ticks = _ticks(-most, most, 5 if width > 500 else 3)
    out += [svg_text(x(value), bottom + 18, f"{value:+g}" if value else "0", "middle") for value in ticks]
    out.append(svg_text((left + width - right) / 2, bottom + 36, "bits per byte, difference to all", "middle"))
    label = (
        "Difference of each arm to all documents in bits per byte, with 95 % intervals and the noise of the ablation"
    )
    return svg(width, bottom + 44, label, out)


def curves(result: dict[str, Any], *, width: int = 460) -> Markup:
    """The measure of each arm over tokens, both axes from the first point to the last; tokens on a log scale."""
    arms = result["arms"]
    left, right, top, plot = 56, 130, 16, 200
    tokens = [point["tokens"] for arm in arms for point in arm["curve"]]
    values = [point["value"] for arm in arms for point in arm["curve"]]
    first, last = math.log(min(tokens)), math.log(max(max(tokens), min(tokens) + 1))
    low, high = min(values), max(max(values), min(values) + 1e-6)

    def place(point: dict[str, Any]) -> tuple[float, float]:
        across = (math.log(point["tokens"]) - first) / (last - first)
        return left + (width - left - right) * across, top + plot * (high - point["value"]) / (high - low)

    out, labels = [], []
    for value in _ticks(low, high, 5):
        y = top + plot * (high - value) / (high - low)
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(svg_text(left - 6, y + 4, f"{value:g}", "end"))
    for number, arm in enumerate(arms):
        points = [place(point) for point in arm["curve"]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        kind = "middle" if arm["name"] == "all" else "gain" if arm["random"] is not None else "axis"
        dash = _DASHES[number % len(_DASHES)]
        out.append(f'<polyline class="{kind}" fill="none" stroke-width="2" stroke-dasharray="{dash}" points="{path}"/>')
        labels.append((points[-1][1], visible(arm["name"])[:18]))
    for y, name in _apart(labels):
        out.append(svg_text(width - right + 6, y + 4, name, "start"))
    points = arms[0]["curve"]
    out += [svg_text(place(each)[0], top + plot + 18, compact(each["tokens"]), "middle") for each in points]
    out.append(svg_text((left + width - right) / 2, top + plot + 36, "tokens of a run that ends there", "middle"))
    return svg(width, top + plot + 44, "Bits per byte of each arm over tokens", out)


def _interval(found: dict[str, Any]) -> tuple[float, float]:
    """The ends of an interval, which are the value where there is none."""
    low, high = found["low"], found["high"]
    return (found["value"], found["value"]) if low is None else (low, high)


def _apart(labels: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Labels from top to bottom, moved down as far as they would overlap."""
    placed: list[tuple[float, str]] = []
    for y, name in sorted(labels):
        placed.append((max(y, placed[-1][0] + 14) if placed else y, name))
    return placed


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many round values between two ends."""
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * k for k in (1, 2, 5, 10, 20) if (high - low) / (power * k) <= most)
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]
