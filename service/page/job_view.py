"""The view model of a job's results: what the templates show of its report and of a preview of a selection."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from service.page import charts, perplexity_chart, score_charts, score_view
from service.page.format import domain_name, number, percent
from service.page.forms import LIMITS
from service.page.kept import composite, kept_range, limits_of, partly_kept, score_of, value_range
from service.page.perplexity_chart import ROWS_MAX, ChartRow
from service.page.samples import Sample, samples

_DOMAINS_MAX = 30  # rows of the table
_UNITS = ("documents", "tokens")
_WIDTHS = (1040, 340)  # px of the histogram, on wide and on narrow screens
_WARNING_SHARE = 0.01  # of the documents


def job_values(job: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """The template values of a scored job that do not depend on a preview."""
    documents, has_reference = report["eligible"]["documents"], job["request"]["reference"] is not None
    return {
        "job": job,
        "report": report,
        "has_reference": has_reference,
        "lengths": [charts.lengths(report["lengths"], width=width) for width in (460, 340)] if has_reference else [],
        "warnings": warnings(job, report),
        "domain_count": domain_count(report),
        "kept_ranges": {made["id"]: kept_range(made, documents) for made in job["selections"]},
        "score_names": [score["name"] for score in report.get("scores", ())],
        **score_view.score_values(job, report),
    }


def preview_values(job: dict[str, Any], report: dict[str, Any], preview: dict[str, Any], by: str) -> dict[str, Any]:
    """The template values of a preview, with a histogram by documents or by tokens."""
    preview = {"per": None, "seed": None, "score": None} | preview
    score = score_of(preview)
    of_scores = {each["name"]: each for each in report.get("scores", ())}
    shown = _default_score(job, report) if score is None else score
    if shown is not None and shown in of_scores:
        drawn = _distribution(of_scores[shown], preview, by, own=score is not None)
    elif job["request"]["reference"] is not None:
        drawn = _perplexities(job, report, preview, by)
    else:  # the report of an earlier version
        drawn = {"plots": [], "plotted": "", "kept_is_drawn": False, "rows_drawn": ""}
    shifts = domain_shifts(report, preview)
    return drawn | {
        "preview_part": "_preview.html",
        "preview": preview,
        "explored": explored(preview),
        "score": score,
        "values": value_range(preview) if score is not None else None,
        "kept": kept_range(preview, report["eligible"]["documents"]),
        "partly": partly_kept(preview),
        "composite": composite(preview),
        "by": by,
        "selection": next((made for made in job["selections"] if made["id"] == preview["id"]), None),
        "domain_rows": largest_shifts(shifts),
        "largest_share": max(max(row[u]["before"], row[u]["after"]) for row in shifts for u in _UNITS) or 1.0,
        "losses": domain_losses(shifts),
        "samples": samples_of(job, report, preview),
    }


def samples_of(job: dict[str, Any], report: dict[str, Any], preview: dict[str, Any]) -> list[Sample]:
    """The samples of a preview."""
    names = {row: domain_name(domain) for row, domain in enumerate(report["domains"])}
    return samples(preview, report["eligible"]["documents"], _default_score(job, report), names)


def _default_score(job: dict[str, Any], report: dict[str, Any]) -> str | None:
    """The score that is shown where a preview is by none: None for perplexity, in a job without it the first one."""
    return None if job["request"]["reference"] is not None else next(iter(score_view.main_scores(job, report)), None)


def _distribution(score: dict[str, Any], preview: dict[str, Any], by: str, *, own: bool) -> dict[str, Any]:
    """The plots of a score. `own`: the preview is by it; unless it is by domain, it counts what is kept of each bin."""
    counts = preview.get(f"bin_{by}") if own else None
    if counts is None and by == "documents":
        counts = score["bin_kept"].get(preview["id"])  # of one that is made
    kept = value_range(preview) if own else None
    name = f"{preview['id']}-{score['name']}"
    return {
        "plots": [score_charts.distribution(score, by, kept, counts, width=w, name=f"{name}-{w}") for w in _WIDTHS],
        "plotted": score["name"],
        "kept_is_drawn": counts is not None,
        "rows_drawn": "",
    }


def _perplexities(job: dict[str, Any], report: dict[str, Any], preview: dict[str, Any], by: str) -> dict[str, Any]:
    """The plots of perplexity, with a row for each selection."""
    documents = report["eligible"]["documents"]
    kept, counts = kept_range(preview, documents), preview.get(f"bin_{by}")
    chart_rows = [
        ChartRow(made["id"], made_range, partly_kept(made), made["id"] == preview["id"])
        for made in job["selections"]
        if (made_range := kept_range(made, documents)) is not None
    ]
    if len(chart_rows) > ROWS_MAX:
        chart_rows.sort(key=lambda row: not row.highlighted)  # the previewed one is always drawn
    data, name = report["histogram"], preview["id"]
    return {
        "plots": [
            perplexity_chart.histogram(data, by, kept, counts, chart_rows, width=w, name=f"{name}-{w}") for w in _WIDTHS
        ],
        "plotted": "perplexity",
        "kept_is_drawn": counts is not None,
        "rows_drawn": f"{ROWS_MAX} of the {len(chart_rows)}" if len(chart_rows) > ROWS_MAX else "the",
    }


def explored(preview: dict[str, Any]) -> dict[str, Any]:
    """The values of the explorer's form for a preview: `criterion` may be `threshold`."""
    form = {name: preview.get(name) for name in ("criterion", "rate", "unit", "within", "per", "seed", "score")}
    form |= dict.fromkeys(LIMITS)
    asked = preview if any(name in preview for name in LIMITS) else None  # of one that is not there yet
    limits = limits_of(preview) or asked
    if limits is not None:
        form |= {"criterion": "threshold", "rate": 0.5, "score": limits["score"]}
        form |= {name: limits.get(name) for name in LIMITS}
    elif composite(preview) is not None:
        form |= {"criterion": "medium", "rate": 0.5, "score": None}
    return form


def unseen_values(spec: dict[str, Any], by: str, why: str) -> dict[str, Any]:
    """The template values of a selection that cannot be previewed before it is made, and the reason."""
    default = {"criterion": "medium", "rate": 0.5, "unit": "documents", "within": None, "per": None, "seed": None}
    given = {name: value for name, value in spec.items() if value is not None}
    preview = {"id": None, "score": None} | default | given
    return {"preview_part": "_unseen.html", "preview": preview, "explored": explored(preview), "by": by, "why": why}


def median(report: dict[str, Any], score: str) -> float | None:
    """The median of a score; None of a score without values."""
    found = next((each for each in report.get("scores", ()) if each["name"] == score), None)
    return None if found is None else found["quantiles"].get("50")


def partial_plots(histogram: dict[str, Any]) -> list[Markup]:
    """The histogram of the shards that are scored so far, for wide and for narrow screens."""
    return [
        perplexity_chart.histogram(histogram, "documents", None, None, width=width, name=f"partial-{width}")
        for width in _WIDTHS
    ]


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


def warnings(job: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """Sentences about the fields and properties of the scores to know before selecting.

    The warning about the reference stands beside its quality.
    """
    documents, stride = report["eligible"]["documents"], job["request"]["scoring"]["stride"]
    sentences = list(report.get("warnings", ()))  # absent in reports of earlier versions
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
