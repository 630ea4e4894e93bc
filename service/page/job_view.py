"""What the page says of a scored job and of a band of its documents: from the report and a preview alone."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from service.page import charts
from service.page.charts import Band, Lane
from service.page.format import number, percent

_ROWS = 30  # domains in the table
_WHATS = ("documents", "tokens")
_WIDTHS = (1040, 340)  # of the histogram on wide and on narrow screens
_WARNED = 0.01  # share of the documents from which a warning is given


class Place(NamedTuple):
    """Documents from a rank on: of all, or of the domain that a row of the report names, among its own."""

    rank: int
    documents: int
    domain: int | None = None


class Samples(NamedTuple):
    """Five documents around a rank; those with the ranks [`start`, `stop`), if that is known, are kept.

    Around a threshold they have its `perplexity`, and around one of a domain this domain's name.
    """

    title: str
    place: Place
    start: int | None
    stop: int | None
    perplexity: float | None = None
    domain: str | None = None


def first_band(job: dict[str, Any]) -> dict[str, Any]:
    """The first selection that a job was asked for."""
    spec = job["request"]["selections"][0]
    return {name: spec[name] for name in ("criterion", "rate", "unit", "within")}


def band_of(kept: dict[str, Any], documents: int) -> Band | None:
    """The part of the histogram that a preview or a selection keeps, or None if that is nothing.

    Thresholds are where something is left out.
    """
    if kept["perplexity_min"] is None:
        return None
    low, high = kept["perplexity_min"], _or_infinite(kept["perplexity_max"])
    start, stop = kept["start"], kept["stop"]
    if start is None or stop is None:
        return Band(low, high, None, None)
    return Band(
        low,
        high,
        100 * start / documents if start > 0 else None,
        100 * stop / documents if stop < documents else None,
    )


def _or_infinite(perplexity: float | None) -> float:
    """JSON has null for what is beyond all numbers."""
    return math.inf if perplexity is None else perplexity


def facts(job: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """What the templates take of a scored job, whatever part of it is looked at."""
    return {
        "job": job,
        "report": report,
        "lengths": [charts.lengths(report["lengths"], width=width) for width in (460, 340)],
        "warnings": warnings(report, job["request"]["scoring"]["stride"]),
        "all_domains": domain_count(report),
        "bands_made": {made["id"]: band_of(made, report["eligible"]["documents"]) for made in job["selections"]},
    }


def in_view(job: dict[str, Any], report: dict[str, Any], preview: dict[str, Any], by: str) -> dict[str, Any]:
    """What the templates take of a band of its documents, that of a preview, drawn by documents or by tokens."""
    documents = report["eligible"]["documents"]
    band = band_of(preview, documents)
    lanes = [
        Lane(made["id"], kept, made["within"] is not None, made["id"] == preview["id"])
        for made in job["selections"]
        if (kept := band_of(made, documents)) is not None
    ]
    if len(lanes) > charts.LANES:
        lanes.sort(key=lambda lane: not lane.on)  # that in view is drawn in any case
    rows = domain_shifts(report, preview)
    data, name = report["histogram"], preview["id"]
    return {
        "preview": preview,
        "band": band,
        "by": by,
        "made": next((made for made in job["selections"] if made["id"] == preview["id"]), None),
        "plots": [charts.histogram(data, by, band, lanes, width=width, name=f"{name}-{width}") for width in _WIDTHS],
        "outside": charts.outside(data, by, band),
        "lanes": f"{charts.LANES} of the {len(lanes)}" if len(lanes) > charts.LANES else "the",
        "rows": most_moved(rows),
        "domains": domain_count(report),
        "most": max(max(row[w]["before"], row[w]["after"]) for row in rows for w in _WHATS) or 1.0,
        "losses": losses(rows),
        "samples": samples(preview, documents),
    }


def growing(histogram: dict[str, Any]) -> list[Markup]:
    """The histogram of the shards so far, for wide and for narrow screens."""
    return [charts.histogram(histogram, "documents", None, width=width, name=f"g{width}") for width in _WIDTHS]


def domain_shifts(report: dict[str, Any], preview: dict[str, Any]) -> list[dict[str, Any]]:
    """Each domain's shares of documents and tokens, before and after: what gains most first, what loses most last."""
    rows = []
    for before, after in zip(report["domains"], preview["domains"], strict=True):
        row: dict[str, Any] = {"name": domain_name(before), "median": before.get("perplexity_median")}
        for what in ("documents", "tokens"):
            shares = {"before": before[f"{what}_share"], "after": after[f"{what}_share"], "kept": after[what]}
            row[what] = shares | {"all": before[what]}
        rows.append(row)
    rows.sort(key=lambda row: row["documents"]["before"] - row["documents"]["after"])
    return rows


def most_moved(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose share of documents or tokens changes most, in the same order."""
    moved = sorted(
        range(len(rows)), key=lambda i: -max(abs(rows[i][w]["after"] - rows[i][w]["before"]) for w in _WHATS)
    )
    return [rows[i] for i in sorted(moved[:_ROWS])]


def domain_count(report: dict[str, Any]) -> int:
    """How many domains there are, those included that a report sums up."""
    return sum(row.get("others", 1) for row in report["domains"])


def domain_name(row: dict[str, Any]) -> str:
    """What a row of domains is called."""
    if "others" in row:
        return f"({row['others']:,} smaller domains)"
    return "(no domain)" if row["domain"] is None else str(row["domain"])


def samples(preview: dict[str, Any], documents: int) -> list[Samples]:
    """Where to look: both extremes, the median, and around each threshold: the band's, or those of large domains."""
    run = preview["start"], preview["stop"]
    count = min(5, documents)
    found = [
        Samples("Lowest perplexity: the most predictable", Place(0, count), *run),
        Samples("Around the median", _near(documents // 2, documents), *run),
        Samples("Highest perplexity: the least predictable", Place(documents - count, count), *run),
    ]
    if preview["within"] is None:
        found += _around(preview, documents)
        found.sort(key=lambda sample: sample.place.rank)
    for row, inside in enumerate(preview["inside"]):
        found += _around(inside, inside["documents"], row, domain_name(inside))
    return found


def _around(
    kept: dict[str, Any], documents: int, row: int | None = None, domain: str | None = None
) -> Iterator[Samples]:
    """Samples around the thresholds of what is kept of all documents, or of a domain's."""
    start, stop = kept["start"], kept["stop"]
    low, high = kept["perplexity_min"], _or_infinite(kept["perplexity_max"])
    if stop > start > 0:
        yield Samples("Around the lower threshold", _near(start, documents, row), start, stop, low, domain)
    if start < stop < documents:
        yield Samples("Around the upper threshold", _near(stop, documents, row), start, stop, high, domain)


def _near(rank: int, documents: int, row: int | None = None) -> Place:
    """Five documents, or all that there are, two of them under a rank where that is possible."""
    count = min(5, documents)
    return Place(max(0, min(rank - 2, documents - count)), count, row)


def warnings(report: dict[str, Any], stride: int | None = None) -> list[str]:
    """What to know of the scores before choosing, in words; `stride` is that of the windows, if they overlap."""
    documents = report["eligible"]["documents"]
    said = []
    short, cut, equal, rejects = report["short"], report["cut"], report["equal"], report["rejects"]
    if short["documents"] >= _WARNED * documents:
        said.append(
            f"{percent(short['documents'] / documents)} of the documents have fewer than {short['under_tokens']} "
            "tokens: their perplexity says little, and they crowd both ends."
        )
    if cut["documents"] >= _WARNED * documents:
        before = "without what came before it" if stride is None else f"of up to {number(stride)} new tokens"
        said.append(
            f"{percent(cut['documents'] / documents)} of the documents are longer than the reference's context of "
            f"{number(cut['context'])} tokens and were read in several windows, each {before}."
        )
    if equal["documents"] >= _WARNED * documents:
        said.append(
            f"{percent(equal['documents'] / documents)} of the documents share their exact score with another (up to "
            f"{number(equal['largest'])} with one score): most are likely copies. Ties go by file and row."
        )
    if rejects["documents"]:
        reasons = ", ".join(f"{reason}: {number(count)}" for reason, count in rejects["reasons"].items())
        said.append(f"{number(rejects['documents'])} documents have no score and are in no selection ({reasons}).")
    if documents < 1000:
        said.append(f"There are only {number(documents)} documents: thresholds and shares are coarse.")
    return said


def losses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The domains that lose more than half of their share of documents or of tokens, in words."""
    said = []
    for row in rows:
        lost = [w for w in _WHATS if row[w]["before"] >= 0.001 and row[w]["after"] < row[w]["before"] / 2]
        if lost:
            what = " and ".join(f"{percent(row[w]['before'])} to {percent(row[w]['after'])} of the {w}" for w in lost)
            name = row["name"] if len(row["name"]) <= 100 else row["name"][:100] + "…"
            said.append(f"{name} falls from {what}")
    return said[::-1]
