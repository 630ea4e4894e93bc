"""The histogram of perplexity, as SVG: in each bar the kept part below the part left out, and a row per selection."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from service.page.charts import count_axis, hatch, round_perplexities, svg, svg_text, threshold
from service.page.format import number, percentile, perplexity

ROWS_MAX = 8  # under a histogram
_LINE = 14  # px, height of a line of text
_CHARACTER, _STRONG = 6.8, 7.4  # px, largest width of a character, and of a bold one
_ROUNDEST = "152346789"  # first digits of the values on the axis, in the order in which they get labels
_TAIL = 0.005  # share of the documents at each end that may lie beyond the axis
_TAIL_MIN = 20  # documents of which one may lie beyond it
_MARGIN = 0.15  # of the other documents' range, that the axis is longer at each end to show the tails


class PerplexityRange(NamedTuple):
    """The range of perplexity that a selection keeps. A percentile is None if nothing is left out on that side."""

    low: float
    high: float
    low_percentile: float | None
    high_percentile: float | None


class ChartRow(NamedTuple):
    """A selection in the rows under the histogram. `note` says why not all documents in the range are kept."""

    name: str
    kept: PerplexityRange
    note: str
    highlighted: bool


class _Bar(NamedTuple):
    """A bar from `low` to `high` of ln(perplexity): documents or tokens in all, and of these the kept ones."""

    low: float
    high: float
    total: int
    kept: int


def histogram(
    data: dict[str, Any],
    by: str,
    kept: PerplexityRange | None,
    counts: Sequence[int] | None,
    rows: Sequence[ChartRow] = (),
    *,
    width: int,
    name: str,
) -> Markup:
    """A histogram of documents or tokens (`by`) over perplexity. Ids contain `name`, which is unique on a page.

    `kept` has the thresholds; `counts` are the kept documents or tokens by bin, None where no part is to be marked.
    """
    left, right, top, plot = 52, 12, 56, 190
    low, high = axis_range(data, kept)
    size = (width - left - right) / (high - low)

    def x(value: float) -> float:
        return left + (min(max(value, low), high) - low) * size

    bars = _bars(data, by, counts, low, high, max(1, math.ceil(4 / (data["bin_width"] * size))))
    most = max((bar.total for bar in bars), default=0) or 1
    bottom = top + plot

    def path(heights: Sequence[int]) -> str:
        return "".join(
            f"M{x(bar.low):.1f} {bottom}V{bottom - plot * count / most:.1f}"
            f"H{max(x(bar.high) - 1, x(bar.low) + 0.5):.1f}V{bottom}Z"
            for bar, count in zip(bars, heights, strict=True)
            if count
        )

    out = [f'<path class="all" d="{path([bar.total for bar in bars])}"/>']
    label = f"Histogram of {by} by perplexity"
    if counts is not None:
        green = path([bar.kept for bar in bars])
        out.append(f'<path class="kept" d="{green}"/><path fill="url(#{name}-hatch)" d="{green}"/>')
        label += f"; {number(sum(counts))} of {number(sum(data[by]))} are kept"
    if kept is not None:
        first, last = x(math.log(kept.low)), x(_log(kept.high))
        low_text, high_text = perplexity(kept.low), perplexity(kept.high)
        out += threshold(first, top, bottom, low_text, kept.low_percentile, width, label_left=True)
        out += threshold(last, top, bottom, high_text, kept.high_percentile, width, label_left=False)
        label += f"; kept from {low_text} to {high_text}"
    axes = [*count_axis(most, by, left, width - right, top, plot), *_perplexity_axis(x, low, high, bottom)]
    height: float = bottom + 40
    for line in _wrap(beyond(data, by, low, high), (width - left - right) / _CHARACTER):
        height += _LINE + 2
        axes.append(svg_text((left + width - right) / 2, height - 6, line, "middle"))
    for row in rows[:ROWS_MAX]:
        drawn, height = _draw_row(row, x, height, left, width - right)
        out += drawn
    height += 4 if rows else 0
    return svg(width, height, label, [hatch(name), *axes, *out])


def axis_range(data: dict[str, Any], kept: PerplexityRange | None = None) -> tuple[float, float]:
    """The ends of the axis of ln(perplexity): where documents are, without long thin tails, and the thresholds."""
    edges, counts = data["edges"], data["documents"]
    total = sum(counts)
    aside = max(_TAIL * total, 1.0 if total >= _TAIL_MIN else 0.0)
    filled = [at for at, count in enumerate(counts) if count]
    first, last = _first_over(counts, aside), len(counts) - 1 - _first_over(counts[::-1], aside)
    margin = _MARGIN * (edges[last + 1] - edges[first])
    low = edges[min(at for at in filled if edges[at] >= edges[first] - margin - 1e-9)]
    high = edges[1 + max(at for at in filled if edges[at + 1] <= edges[last + 1] + margin + 1e-9)]
    if kept is not None:
        if kept.low_percentile is not None:
            low = min(low, math.log(kept.low) - data["bin_width"])
        if kept.high_percentile is not None:
            high = max(high, _log(kept.high) + data["bin_width"])
    return low, high


def beyond(data: dict[str, Any], by: str, low: float, high: float) -> list[str]:
    """What lies beyond the ends of the axis, in pieces of one sentence; [] if all is drawn."""
    edges = data["edges"]
    pieces = []
    for side, inside, end in (
        ("down", [at for at in range(len(edges) - 1) if edges[at + 1] <= low + 1e-9], edges[0]),
        ("up", [at for at in range(len(edges) - 1) if edges[at] >= high - 1e-9], edges[-1]),
    ):
        if found := sum(data[by][at] for at in inside):
            unit = by.removesuffix("s") if found == 1 else by
            pieces.append(f"{number(found)} {unit} {side} to about {perplexity(math.exp(min(end, 709.7)))}")
    return [f"beyond the axis: {pieces[0]}", *(f"and {piece}" for piece in pieces[1:])] if pieces else []


def _first_over(counts: Sequence[int], aside: float) -> int:
    """The first bin up to which there are more than so many documents."""
    under = 0
    for at, count in enumerate(counts):
        under += count
        if under > aside:
            return at
    return len(counts) - 1


def _log(value: float) -> float:
    return math.log(min(value, 1.7e308))


def _bars(
    data: dict[str, Any], by: str, kept: Sequence[int] | None, low: float, high: float, factor: int
) -> list[_Bar]:
    """The bins between the ends of the axis, `factor` of them joined to one bar."""
    edges, counts = data["edges"], data[by]
    inside = [at for at in range(len(counts)) if edges[at + 1] > low + 1e-9 and edges[at] < high - 1e-9]
    joined = [inside[at : at + factor] for at in range(0, len(inside), factor)]
    return [
        _Bar(
            edges[bins[0]],
            edges[bins[-1] + 1],
            sum(counts[at] for at in bins),
            0 if kept is None else sum(kept[at] for at in bins),
        )
        for bins in joined
    ]


def _perplexity_axis(x: Callable[[float], float], low: float, high: float, bottom: int) -> Iterator[str]:
    labelled: list[float] = []
    values = round_perplexities(low, high, (x(high) - x(low)) / 54)
    for value in sorted(values, key=lambda value: _ROUNDEST.find(f"{value:e}"[0])):
        at = x(math.log(value))
        yield f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        if all(abs(at - other) > 44 for other in labelled):
            yield svg_text(at, bottom + 17, perplexity(value).removesuffix(".0"), "middle")
            labelled.append(at)
    yield svg_text((x(low) + x(high)) / 2, bottom + 34, "perplexity (log scale)", "middle")


def _thresholds(row: ChartRow) -> list[str]:
    """The text of a row's thresholds, in pieces that may be on separate lines."""
    kept = row.kept
    low, high = perplexity(kept.low), perplexity(kept.high)
    if kept.low_percentile is not None:
        low += f" (percentile {percentile(kept.low_percentile)})"
    if kept.high_percentile is not None:
        high += f" (percentile {percentile(kept.high_percentile)})"
    if kept.high_percentile is None and kept.low_percentile is not None:
        return [f"from {low}"]
    if kept.low_percentile is None and kept.high_percentile is not None:
        return [f"up to {high}"]
    return [low, f"to {high}", *([f"({row.note})"] if row.note else [])]


def _wrap(pieces: Sequence[str], characters: float) -> list[str]:
    """Joins the pieces to lines of at most so many characters."""
    lines = list(pieces[:1])
    for piece in pieces[1:]:
        joined = f"{lines[-1]} {piece}"
        if len(joined) <= characters:
            lines[-1] = joined
        else:
            lines.append(piece)
    return lines


def _draw_row(row: ChartRow, x: Callable[[float], float], y: float, left: int, right: int) -> tuple[list[str], float]:
    """A selection's bar with its label above; returns the SVG parts and the next y."""
    character = _STRONG if row.highlighted else _CHARACTER
    lines = _wrap([f"{row.name}:", *_thresholds(row)], (right - left) / character)
    first, last = x(math.log(row.kept.low)), x(_log(row.kept.high))
    at = max(4.0, min(first, right - character * max(map(len, lines))))
    out = [
        svg_text(at, y + _LINE * i, line, "start", "strong" if row.highlighted else "")
        for i, line in enumerate(lines, 1)
    ]
    y += _LINE * len(lines) + 8
    out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
    out.append(
        f'<rect class="chart-row{" on" * row.highlighted}" x="{first:.1f}" y="{y - 3:.1f}" '
        f'width="{max(2, last - first):.1f}" height="6" rx="3"/>'
    )
    return out, y + 8
