"""The charts, as SVG. The page's style sheet colours their classes; `standalone` adds the colours for a file."""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup, escape

from service.page.format import change, number, percent, percentile, perplexity, visible

# For charts in files of their own, on white.
COLOURS = """
text { font-family: "DejaVu Sans", "Helvetica Neue", Arial, sans-serif; font-size: 12px; fill: #3c4650; }
.strong { font-weight: bold; fill: #14181c; } .grid { stroke: #e3e7ea; } .axis { stroke: #8b959e; }
.all { fill: #c3cbd2; } .kept { fill: #17835f; } .hatch { stroke: #ffffff; stroke-opacity: .35; }
.range { fill: #17835f; fill-opacity: .08; } .edge { stroke: #0b5d42; }
.chart-row { fill: #7d8a95; } .chart-row.on { fill: #17835f; }
.cell { fill: #17835f; } .middle { stroke: #14181c; fill: none; } .before { fill: #ffffff; stroke: #5b6570; }
.gain { stroke: #17835f; } .loss { stroke: #b3541e; } .after { fill: #7d8a95; } .after.up { fill: #17835f; }
.after.down { fill: #b3541e; }
"""
_TURNS = {"up": "gain", "down": "loss", "": "axis"}  # the class of a line, by that of a change


def hatch(name: str) -> str:
    """The hatching of what is kept, under the id `<name>-hatch`."""
    return (
        f'<defs><pattern id="{name}-hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><line class="hatch" x1="0" y1="0" x2="0" y2="6" stroke-width="2"/></pattern>'
        "</defs>"
    )


def lengths(data: dict[str, Any], *, width: int = 460) -> Markup:
    """A heat map of documents by length in tokens and perplexity, with the median perplexity of each length."""
    left, right, top, plot = 52, 28, 28, 240
    cells: list[list[int]] = data["documents"]
    columns, rows = len(cells), len(cells[0])
    wide, high = (width - left - right) / columns, plot / rows
    most = max(max(column) for column in cells) or 1
    levels: dict[int, list[str]] = {}
    for i, column in enumerate(cells):
        shades = [1 + min(6, int(7 * math.log1p(count) / math.log1p(most))) if count else 0 for count in column]
        stop = 0
        for level, cells_alike in groupby(shades):  # one above the other, drawn as one
            start, stop = stop, stop + len(list(cells_alike))
            if level:
                x, y, size = left + i * wide, top + plot - stop * high, (stop - start) * high
                levels.setdefault(level, []).append(f"M{x:.1f} {y:.1f}h{wide:.1f}v{size:.1f}h-{wide:.1f}z")
    out = [
        f'<path class="cell" fill-opacity="{level / 7:.2f}" d="{"".join(d)}"/>' for level, d in sorted(levels.items())
    ]
    medians = []
    for i, column in enumerate(cells):
        total, under = sum(column), 0
        for j, count in enumerate(column):
            if total and 2 * (under + count) >= total:
                medians.append(f"{left + (i + 0.5) * wide:.1f},{top + plot - (j + 0.5) * high:.1f}")
                break
            under += count
    out.append(f'<polyline class="middle" stroke-width="1.5" stroke-dasharray="4 3" points="{" ".join(medians)}"/>')
    edges, bottom = data["edges"], top + plot
    step = max(1, math.ceil(columns / (width / 56)))
    shown = range(0, columns + 1, step)
    out += [svg_text(left + i * wide, bottom + 16, number(data["token_edges"][i]), "middle") for i in shown]
    for value in round_perplexities(edges[0], edges[-1], plot / 28):
        y = bottom - plot * (math.log(value) - edges[0]) / (edges[-1] - edges[0])
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(svg_text(left - 6, y + 4, perplexity(value), "end"))
    out.append(f'<line class="axis" x1="{left}" x2="{width - right}" y1="{bottom}" y2="{bottom}"/>')
    out.append(svg_text((left + width - right) / 2, bottom + 34, "tokens of a document (doubling)", "middle"))
    out.append(svg_text(4, 14, "perplexity (log scale)", "start"))
    label = "Documents by length in tokens and perplexity; darker is more, the dashed line the median of a length"
    return svg(width, bottom + 42, label, out)


def domains(rows: Sequence[dict[str, Any]], unit: str, *, width: int = 760) -> Markup:
    """The share of each domain before and after, in the order of `rows`. `unit` is documents or tokens."""
    left, right, line, top = 210, 150, 22, 30
    most = max((max(row[unit]["before"], row[unit]["after"]) for row in rows), default=0) or 1

    def x(share: float) -> float:
        return left + (width - left - right) * share / most

    out = [svg_text(left, 16, f"share of all {unit}, before (hollow) and after (full)", "start")]
    for i, row in enumerate(rows):
        y, shares = top + i * line + line / 2, row[unit]
        before, after = x(shares["before"]), x(shares["after"])
        turn = change(shares["before"], shares["after"])
        out.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y}" y2="{y}"/>')
        out.append(
            f'<line class="{_TURNS[turn]}" stroke-width="3" x1="{before:.1f}" x2="{after:.1f}" y1="{y}" '
            f'y2="{y}"/><circle class="before" stroke-width="1.5" cx="{before:.1f}" cy="{y}" r="4.5"/>'
            f'<circle class="after {turn}" cx="{after:.1f}" cy="{y}" r="4.5"/>'
        )
        out.append(svg_text(left - 12, y + 4, visible(row["name"])[:30], "end"))
        out.append(
            svg_text(width - right + 12, y + 4, f"{percent(shares['before'])} → {percent(shares['after'])}", "start")
        )
    return svg(width, top + len(rows) * line + 10, f"Share of each domain in all {unit}, before and after", out)


def standalone(svg: Markup) -> str:
    """The text of an SVG file of a chart, with its colours, on white."""
    head, _, rest = str(svg).partition(">")
    white = '<rect width="100%" height="100%" fill="#ffffff"/>'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}><style>{COLOURS}</style>{white}{rest}'


def svg(width: int, height: float, label: str, parts: Sequence[str]) -> Markup:
    """An SVG of these parts, which are escaped; `label` is its text for screen readers."""
    return Markup(  # noqa: S704 (the parts are escaped where they are built)
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" width="{width}" '
        f'height="{height:.0f}" viewBox="0 0 {width} {height:.0f}">{"".join(parts)}</svg>'
    )


def svg_text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    """A text, escaped; `anchor` is start, middle or end."""
    kind = f' class="{kind}"' if kind else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def threshold(
    x: float, top: int, bottom: int, value: str, at_percentile: float | None, width: int, *, label_left: bool
) -> Iterator[str]:
    """A line at a threshold with its value and percentile; nothing if there is no percentile."""
    if at_percentile is None:
        return
    yield f'<line class="edge" stroke-width="1.5" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 30}" y2="{bottom}"/>'
    anchor, aside = ("end", -5) if label_left else ("start", 5)
    if (label_left and x < 110) or (not label_left and x > width - 80):
        anchor, aside = ("start", 5) if label_left else ("end", -5)
    yield svg_text(x + aside, top - 20, value, anchor, "strong")
    yield svg_text(x + aside, top - 6, f"percentile {percentile(at_percentile)}", anchor)


def count_axis(most: int, by: str, left: int, right: int, top: int, plot: int) -> Iterator[str]:
    """The vertical axis of a histogram of documents or tokens (`by`)."""
    step = 10 ** math.floor(math.log10(most))
    step = next(step * k // 10 or 1 for k in (2, 5, 10, 20, 50) if most / max(1, step * k // 10) <= 5)
    for value in range(0, most + 1, step):
        y = top + plot - plot * value / most
        yield f'<line class="{"axis" if value == 0 else "grid"}" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield svg_text(left - 6, y + 4, _axis_label(value), "end")
    yield svg_text(4, 14, f"{by} per bar", "start")


def _axis_label(value: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def round_perplexities(low: float, high: float, most: float) -> list[float]:
    """At most `most` round values between the ends, about evenly spaced on a log scale."""
    powers = range(math.floor(low / math.log(10)), min(308, math.ceil(high / math.log(10))) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        found = [
            step * 10.0**power for power in powers for step in steps if low <= math.log(step * 10.0**power) <= high
        ]
        if len(found) <= most:
            return found or [math.exp(min(end, 709.7)) for end in (low, high)]  # no round value lies between
    return found[:: math.ceil(len(found) / max(1, most))]
