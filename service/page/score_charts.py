"""The charts of any score, as SVG: its distribution with the part that is kept, large and small."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from service.page.charts import count_axis, hatch, svg, svg_text, threshold
from service.page.format import number, score_value


class ValueRange(NamedTuple):
    """The values that a selection keeps. A percentile is None if nothing is left out on that side."""

    low: float
    high: float
    low_percentile: float | None
    high_percentile: float | None


def distribution(
    score: dict[str, Any], by: str, kept: ValueRange | None, counts: Sequence[int] | None, *, width: int, name: str
) -> Markup:
    """A histogram of documents or tokens (`by`) over a score, a `scores` row of the report.

    `kept` has the thresholds; `counts` are the kept documents or tokens by bin, None where no part is to be marked. Ids
    contain `name`, which is unique on a page.
    """
    left, right, top, plot = 52, 12, 56, 170
    edges, total = score["edges"], score[f"bin_{by}"]
    if not edges:
        return svg(width, 40, "No document has this score", [svg_text(4, 24, "no document has it", "start")])
    position, bottom = _position(score), top + plot
    ends = position(edges[0]), position(edges[-1])
    most = max(total) or 1

    def x(value: float) -> float:
        share = (position(min(max(value, edges[0]), edges[-1])) - ends[0]) / (ends[1] - ends[0])
        return left + (width - left - right) * float(share)

    def path(drawn: Sequence[int]) -> str:
        return "".join(
            f"M{x(edges[i]):.1f} {bottom}V{bottom - plot * count / most:.1f}H{x(edges[i + 1]) - 1:.1f}V{bottom}Z"
            for i, count in enumerate(drawn)
            if count
        )

    out = [f'<path class="all" d="{path(total)}"/>']
    label = f"Histogram of {by} by {score['name']}"
    if counts is not None:
        out.append(f'<path class="kept" d="{path(counts)}"/><path fill="url(#{name}-hatch)" d="{path(counts)}"/>')
        label += f"; {number(sum(counts))} of {number(sum(total))} are kept"
    if kept is not None:
        whole = _is_whole(score)  # a bin around a whole number is kept or not
        first, last = x(kept.low - 0.5 * whole), x(kept.high + 0.5 * whole)
        out += threshold(first, top, bottom, score_value(kept.low), kept.low_percentile, width, label_left=True)
        out += threshold(last, top, bottom, score_value(kept.high), kept.high_percentile, width, label_left=False)
        label += f"; kept from {score_value(kept.low)} to {score_value(kept.high)}"
    axes = [*count_axis(most, by, left, width - right, top, plot), *_value_axis(score, x, bottom)]
    height = bottom + 40
    if beyond := _beyond(score):
        height += 16
        axes.append(svg_text((left + width - right) / 2, height - 6, f"beyond the axis: {beyond}", "middle"))
    return svg(width, height, label, [hatch(name), *axes, *out])


def _beyond(score: dict[str, Any]) -> str:
    """The values beyond the ends of the axis, which the first and the last bar hold too; empty if there are none."""
    ends = []
    if score["minimum"] < score["edges"][0]:
        ends.append(f"down to {score_value(score['minimum'])} (first bar)")
    if score["maximum"] > score["edges"][-1]:
        ends.append(f"up to {score_value(score['maximum'])} (last bar)")
    return ", ".join(ends)


def small(score: dict[str, Any], kept: Sequence[int], selection: str) -> Markup:
    """A small histogram of documents by a score, with those by bin that a selection keeps."""
    width, height = 168, 56
    counts = score["bin_documents"]
    most, wide = max(counts, default=0) or 1, width / max(1, len(counts))

    def path(drawn: Sequence[int]) -> str:
        # One outline of whole pixels: a page may have hundreds of these charts.
        tops = [height - math.ceil((height - 4) * count / most) for count in drawn]
        steps = "".join(f"V{top}H{(i + 1) * wide:.0f}" for i, top in enumerate(tops))
        return f"M0 {height}{steps}V{height}Z"

    return svg(
        width,
        height,
        f"Documents by {score['name']}; {selection} keeps {sum(kept)} of {sum(counts)}",
        [
            f'<path class="all" d="{path(counts)}"/><path class="kept" d="{path(kept)}"/>',
            f'<line class="axis" x1="0" x2="{width}" y1="{height}" y2="{height}"/>',
        ],
    )


def _position(score: dict[str, Any]) -> Any:
    """A value's place on the axis."""
    return math.log if score["scale"] == "log" else float


def _is_whole(score: dict[str, Any]) -> bool:
    """Whether there is a bin around each whole number."""
    edges = score["edges"]
    return bool(edges[0] % 1 == 0.5 and edges[1] - edges[0] == 1)


def _value_axis(score: dict[str, Any], x: Any, bottom: int) -> Iterator[str]:
    low, high = score["edges"][0], score["edges"][-1]
    room, last = (x(high) - x(low)) / 62, -math.inf
    for value in _round_values(score, low, high, room):
        at = x(value)
        yield f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        if at - last > 50:
            yield svg_text(at, bottom + 17, score_value(value), "middle")
            last = at
    scale = " (log scale)" if score["scale"] == "log" else ""
    yield svg_text((x(low) + x(high)) / 2, bottom + 34, f"{score['name']}{scale}", "middle")


def _round_values(score: dict[str, Any], low: float, high: float, most: float) -> list[float]:
    """At most about `most` round values between the ends."""
    if score["scale"] == "log":
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
            if len(found) <= most:
                return found or [low, high]
        return found[:: math.ceil(len(found) / max(1, most))]
    step = 10.0 ** math.floor(math.log10((high - low) / max(1, most)))
    step = next((step * k for k in (1, 2, 5) if (high - low) / (step * k) <= most), step * 10)
    step = max(step, 1.0) if _is_whole(score) else step
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]
