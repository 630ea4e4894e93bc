"""The histograms: the kept and the left part of each bar, and an axis without empty ends."""

import re
from typing import Any

import pytest

from service.page import perplexity_chart, score_charts
from service.page.perplexity_chart import PerplexityRange, axis_range
from service.page.score_charts import ValueRange


def heights(svg: str, kind: str) -> list[tuple[float, float]]:
    """The left end and the height of each bar of a kind, `all` or `kept`, in pixels."""
    (path,) = re.findall(rf'<path class="{kind}" d="([^"]*)"', svg)
    bars = re.findall(r"M([\d.]+) (\d+)V([\d.]+)H", path)
    return [(float(x), float(bottom) - float(top)) for x, bottom, top in bars]


def data(counts: list[int], first: int = 60) -> dict[str, Any]:
    """A histogram from ln(perplexity) 3 on."""
    edges = [round((first + at) * 0.05, 9) for at in range(len(counts) + 1)]
    return {"bin_width": 0.05, "edges": edges, "documents": counts, "tokens": [10 * count for count in counts]}


@pytest.mark.parametrize("by", ["documents", "tokens"])
def test_each_bar_has_its_kept_part(by: str) -> None:
    counts, kept = [4, 20, 40, 20, 8], [4, 0, 10, 20, 2]
    scale = 1 if by == "documents" else 10
    svg = str(
        perplexity_chart.histogram(data(counts), by, None, [scale * count for count in kept], width=1040, name="a")
    )
    whole, green = heights(svg, "all"), dict(heights(svg, "kept"))
    assert [round(height * 40 / 190) for _, height in whole] == counts
    assert [round(green.get(x, 0.0) * 40 / 190) for x, _ in whole] == kept
    assert f"{36 * scale} of {92 * scale:,} are kept" in svg


def test_without_counts_no_part_is_marked() -> None:
    kept = PerplexityRange(25.0, 30.0, 10.0, 90.0)
    svg = str(perplexity_chart.histogram(data([5, 5, 5, 5, 5, 5, 5, 5]), "documents", kept, None, width=1040, name="a"))
    assert 'class="kept"' not in svg
    assert "percentile 10<" in svg


@pytest.mark.parametrize("documents", [40, 400, 40_000])
def test_an_outlier_does_not_stretch_the_axis(documents: int) -> None:
    counts = [documents // 40] * 40 + [0] * 120 + [1]
    low, high = axis_range(data(counts))
    assert (low, high) == (3.0, pytest.approx(5.0))
    svg = str(perplexity_chart.histogram(data(counts), "documents", None, None, width=340, name="a"))
    assert "beyond the axis: 1 document up to about 62,944" in svg
    assert "beyond" not in str(
        perplexity_chart.histogram(data(counts[:40]), "documents", None, None, width=340, name="a")
    )


def test_a_threshold_is_on_the_axis() -> None:
    counts = [0] * 3 + [100] * 40 + [0] * 20 + [1] * 20
    assert axis_range(data(counts))[1] < 6
    assert axis_range(data(counts), PerplexityRange(20.0, 600.0, None, 99.9))[1] > 6.39


def test_tails_that_hold_much_are_drawn() -> None:
    counts = [100, *[0] * 40, 100]
    assert axis_range(data(counts)) == (3.0, pytest.approx(5.1))


def test_a_score_has_its_kept_parts_and_says_what_lies_beyond() -> None:
    score = {
        "name": "edu",
        "scale": "linear",
        "edges": [0.0, 1.0, 2.0, 3.0],
        "bin_documents": [10, 20, 10],
        "bin_tokens": [1, 2, 3],
        "minimum": 0.0,
        "maximum": 7.5,
    }
    kept = ValueRange(1.5, 7.5, 50.0, None)
    svg = str(score_charts.distribution(score, "documents", kept, [0, 10, 10], width=340, name="a"))
    green = [round(height * 20 / 170) for _, height in heights(svg, "kept")]
    assert green == [10, 10]
    assert "beyond the axis: up to 7.5 (last bar)" in svg
    assert "percentile 50" in svg
