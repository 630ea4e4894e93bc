"""The view model of a job's results: what the templates show of its report and of a preview of a selection."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from service.page import charts
from service.page.charts import ChartRow, PerplexityRange
from service.page.format import number, percent

_DOMAINS_MAX = 30  # rows of the table
_UNITS = ("documents", "tokens")
_WIDTHS = (1040, 340)  # px of the histogram, on wide and on narrow screens
_WARNING_SHARE = 0.01  # of the documents


class SampleSpan(NamedTuple):
    """Consecutive documents from a rank on. With `domain`, a row of the report, ranks are those within this domain.

    Ranks are by perplexity, or with `per` by NLL per byte.
    """

    rank: int
    documents: int
    domain: int | None = None
    per: str | None = None


class Sample(NamedTuple):
    """A titled span of documents. Those with ranks in [`start`, `stop`), if known, are kept.

    `perplexity` is that of the threshold in the middle of the span, if ranks are by perplexity; `domain` the name of
    the span's domain, if any.
    """

    title: str
    span: SampleSpan
    start: int | None
    stop: int | None
    perplexity: float | None = None
    domain: str | None = None
    at_threshold: bool = False


def by_perplexity(kept: dict[str, Any]) -> bool:
    """Whether the ranks of a preview or a selection are those by perplexity."""
    other = ("per", "score", "stages", "difference", "rank_sum")
    return kept["criterion"] != "random" and all(kept.get(name) is None for name in other)


def composite(kept: dict[str, Any]) -> str | None:
    """The fields of a preview or selection by several scores as JSON; None of any other one."""
    names = ("stages", "difference", "rank_sum")
    if all(kept.get(name) is None for name in names):
        return None
    shown = names[:1] if kept.get("stages") is not None else (*names, "criterion", "rate", "unit", "within")
    return json.dumps({name: kept[name] for name in shown if kept.get(name) is not None}, indent=1)


def partly_kept(kept: dict[str, Any]) -> str:
    """Why a preview or selection does not keep all documents in its range of perplexity; empty if it does."""
    if kept["criterion"] == "random":
        return "drawn at random"
    reasons = ["by NLL per byte"] if kept.get("per") is not None else []
    reasons += [f"by {kept['score']}"] if kept.get("score") is not None else []
    reasons += ["by several scores"] if composite(kept) is not None else []
    return ", ".join([*reasons, *(["with thresholds per domain"] if kept["within"] is not None else [])])


def kept_range(kept: dict[str, Any], documents: int) -> PerplexityRange | None:
    """The perplexities that a preview or a selection of so many documents keeps, or None if it keeps nothing."""
    if kept["perplexity_min"] is None:
        return None
    low, high = kept["perplexity_min"], _infinite_if_null(kept["perplexity_max"])
    start, stop = kept["start"], kept["stop"]
    if start is None or stop is None or not by_perplexity(kept):
        return PerplexityRange(low, high, None, None)
    return PerplexityRange(
        low,
        high,
        100 * start / documents if start > 0 else None,
        100 * stop / documents if stop < documents else None,
    )


def _infinite_if_null(perplexity: float | None) -> float:
    """JSON has no infinity: the API sends null for a perplexity that float64 cannot hold."""
    return math.inf if perplexity is None else perplexity


def job_values(job: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """The template values of a scored job that do not depend on a preview."""
    documents = report["eligible"]["documents"]
    return {
        "job": job,
        "report": report,
        "lengths": [charts.lengths(report["lengths"], width=width) for width in (460, 340)],
        "warnings": warnings(job, report),
        "domain_count": domain_count(report),
        "kept_ranges": {made["id"]: kept_range(made, documents) for made in job["selections"]},
    }


def preview_values(job: dict[str, Any], report: dict[str, Any], preview: dict[str, Any], by: str) -> dict[str, Any]:
    """The template values of a preview, with a histogram by documents or by tokens."""
    documents = report["eligible"]["documents"]
    preview = {"per": None, "seed": None, "score": None} | preview
    kept = kept_range(preview, documents)
    chart_rows = [
        ChartRow(made["id"], made_range, partly_kept(made), made["id"] == preview["id"])
        for made in job["selections"]
        if (made_range := kept_range(made, documents)) is not None
    ]
    if len(chart_rows) > charts.ROWS_MAX:
        chart_rows.sort(key=lambda row: not row.highlighted)  # the previewed one is always drawn
    shifts = domain_shifts(report, preview)
    data, name = report["histogram"], preview["id"]
    return {
        "preview_part": "_preview.html",
        "preview": preview,
        "kept": kept,
        "partly": partly_kept(preview),
        "composite": composite(preview),
        "by": by,
        "selection": next((made for made in job["selections"] if made["id"] == preview["id"]), None),
        "plots": [charts.histogram(data, by, kept, chart_rows, width=w, name=f"{name}-{w}") for w in _WIDTHS],
        "not_drawn": charts.not_drawn(data, by, kept),
        "rows_drawn": f"{charts.ROWS_MAX} of the {len(chart_rows)}" if len(chart_rows) > charts.ROWS_MAX else "the",
        "domain_rows": largest_shifts(shifts),
        "largest_share": max(max(row[u]["before"], row[u]["after"]) for row in shifts for u in _UNITS) or 1.0,
        "losses": domain_losses(shifts),
        "samples": samples(preview, documents),
    }


def unseen_values(spec: dict[str, Any], by: str, why: str) -> dict[str, Any]:
    """The template values of a selection that cannot be previewed before it is made, and the reason."""
    default = {"criterion": "medium", "rate": 0.5, "unit": "documents", "within": None, "per": None, "seed": None}
    default["score"] = None
    given = {name: value for name, value in spec.items() if value is not None}
    return {"preview_part": "_unseen.html", "preview": {"id": None} | default | given, "by": by, "why": why}


def partial_plots(histogram: dict[str, Any]) -> list[Markup]:
    """The histogram of the shards that are scored so far, for wide and for narrow screens."""
    return [charts.histogram(histogram, "documents", None, width=width, name=f"partial-{width}") for width in _WIDTHS]


def domain_shifts(report: dict[str, Any], preview: dict[str, Any]) -> list[dict[str, Any]]:
    """Each domain's shares of documents and tokens before and after, the largest gain first, the largest loss last."""
    rows = []
    for before, after in zip(report["domains"], preview["domains"], strict=True):
        row: dict[str, Any] = {"name": domain_name(before), "median": before.get("perplexity_median")}
        for unit in _UNITS:
            row[unit] = {"before": before[f"{unit}_share"], "after": after[f"{unit}_share"]}
        rows.append(row)
    rows.sort(key=lambda row: row["documents"]["before"] - row["documents"]["after"])
    return rows


def largest_shifts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the largest changes of a share, in the order of `rows`."""
    by_change = sorted(
        range(len(rows)), key=lambda i: -max(abs(rows[i][w]["after"] - rows[i][w]["before"]) for w in _UNITS)
    )
    return [rows[i] for i in sorted(by_change[:_DOMAINS_MAX])]


def domain_count(report: dict[str, Any]) -> int:
    """The number of domains, including the smaller ones that a report combines in one row."""
    return sum(row.get("others", 1) for row in report["domains"])


def domain_name(row: dict[str, Any]) -> str:
    """The name of a row of the report's domains."""
    if "others" in row:
        return f"({row['others']:,} smaller domains)"
    return "(no domain)" if row["domain"] is None else str(row["domain"])


def samples(preview: dict[str, Any], documents: int) -> list[Sample]:
    """Samples at both extremes, at the median, and around the thresholds of the preview or of its largest domains."""
    kept = (preview["start"], preview["stop"]) if by_perplexity(preview) else (None, None)
    count = min(5, documents)
    result = [
        Sample("Lowest perplexity: the most predictable", SampleSpan(0, count), *kept),
        Sample("Around the median", _span_around(documents // 2, documents), *kept),
        Sample("Highest perplexity: the least predictable", SampleSpan(documents - count, count), *kept),
    ]
    per = preview.get("per")
    if per is None and not by_perplexity(preview):
        return result
    if preview["within"] is None:
        result += _threshold_samples(preview, documents, per)
    if preview["within"] is None and by_perplexity(preview):
        result.sort(key=lambda sample: sample.span.rank)
    for row, inside in enumerate(preview["inside"]):
        result += _threshold_samples(inside, inside["documents"], per, row, domain_name(inside))
    return result


def _threshold_samples(
    kept: dict[str, Any], documents: int, per: str | None, row: int | None = None, domain: str | None = None
) -> Iterator[Sample]:
    """Samples around the thresholds of a selection, or of its part within one domain."""
    start, stop = kept["start"], kept["stop"]
    low, high = (kept["perplexity_min"], _infinite_if_null(kept["perplexity_max"])) if per is None else (None, None)
    if stop > start > 0:
        span = _span_around(start, documents, row, per)
        yield Sample("Around the lower threshold", span, start, stop, low, domain, at_threshold=True)
    if start < stop < documents:
        span = _span_around(stop, documents, row, per)
        yield Sample("Around the upper threshold", span, start, stop, high, domain, at_threshold=True)


def _span_around(rank: int, documents: int, row: int | None = None, per: str | None = None) -> SampleSpan:
    """Five documents, or all if there are fewer, two of them below the rank where possible."""
    count = min(5, documents)
    return SampleSpan(max(0, min(rank - 2, documents - count)), count, row, per)


def warnings(job: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """Sentences about the reference, the fields and properties of the scores to know before selecting."""
    documents, stride = report["eligible"]["documents"], job["request"]["scoring"]["stride"]
    sentences = list(report.get("warnings", ()))  # absent in reports of earlier versions
    if job["reference"] is not None and job["reference"]["warning"] is not None:
        sentences.append(job["reference"]["warning"])
    short, cut, equal, rejects = report["short"], report["cut"], report["equal"], report["rejects"]
    if short["documents"] >= _WARNING_SHARE * documents:
        sentences.append(
            f"{percent(short['documents'] / documents)} of the documents have fewer than {short['under_tokens']} "
            "tokens: their perplexity is unreliable, and they are over-represented at both ends."
        )
    if cut["documents"] >= _WARNING_SHARE * documents:
        windows = "without the text before it" if stride is None else f"with up to {number(stride)} new tokens"
        sentences.append(
            f"{percent(cut['documents'] / documents)} of the documents are longer than the reference's context of "
            f"{number(cut['context'])} tokens and were read in several windows, each {windows}."
        )
    if equal["documents"] >= _WARNING_SHARE * documents:
        sentences.append(
            f"{percent(equal['documents'] / documents)} of the documents share their exact score with another (up to "
            f"{number(equal['largest'])} with one score): most are likely duplicates. Ties are ordered by file and row."
        )
    if rejects["documents"]:
        reasons = ", ".join(f"{reason}: {number(count)}" for reason, count in rejects["reasons"].items())
        sentences.append(f"{number(rejects['documents'])} documents have no score and are in no selection ({reasons}).")
    if documents < 1000:
        sentences.append(f"There are only {number(documents)} documents: thresholds and shares are imprecise.")
    return sentences


def domain_losses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each domain that loses over half of its share of documents or tokens, the largest loss first."""
    sentences = []
    for row in rows:
        lost = [u for u in _UNITS if row[u]["before"] >= 0.001 and row[u]["after"] < row[u]["before"] / 2]
        if lost:
            change = " and ".join(f"{percent(row[u]['before'])} to {percent(row[u]['after'])} of the {u}" for u in lost)
            name = row["name"] if len(row["name"]) <= 100 else row["name"][:100] + "…"
            sentences.append(f"{name} falls from {change}")
    return sentences[::-1]
