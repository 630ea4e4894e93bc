"""The report as one file that needs no service and runs no script, and its plots as files of their own."""

from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from service.page import charts
from service.page import job_view as result
from service.page import snippets as repeat
from service.page.api import job_path
from service.page.job_view import Place
from service.page.render import HERE, text

_SELECTIONS = 12  # that are shown in full
CHARACTERS = 1000  # of each sample's text

Rows = list[dict[str, Any]]


class Material(NamedTuple):
    """What a report is made of, as the API answers it: a preview of each selection, samples by their place."""

    job: dict[str, Any]
    report: dict[str, Any]
    previews: list[dict[str, Any]]
    samples: dict[Place, Rows]


def previewed(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The selections of a job that are shown in full."""
    names = ("criterion", "rate", "unit", "within")
    return [{name: made[name] for name in names} for made in job["selections"][:_SELECTIONS]]


def sampled(report: dict[str, Any], previews: Rows) -> set[Place]:
    """The samples that a report holds."""
    documents = report["eligible"]["documents"]
    return {sample.place for each in previews for sample in result.samples(each, documents)}


async def gather(get: Callable[..., Awaitable[Any]], job_id: str) -> Material:
    """The material from the API, by a function that takes a path and parameters; raises as that does."""
    job = await get(job_path(job_id))
    report = await get(job_path(job_id, "report"))
    previews = [await get(job_path(job_id, "preview"), **spec) for spec in previewed(job)]
    samples = {}
    for place in sampled(report, previews):
        rank, count, domain = place
        found = await get(job_path(job_id, "documents"), rank=rank, count=count, characters=CHARACTERS, domain=domain)
        samples[place] = found["data"]
    return Material(job, report, previews, samples)


def report_html(material: Material, server: str, keyed: bool = False) -> str:
    """The report as HTML; `server` is where the job could be submitted again, with a key if it is `keyed`."""
    job, report, previews, samples = material
    documents = report["eligible"]["documents"]
    bands = []
    for preview in previews:
        read = [
            (each, samples[each.place]) for each in result.samples(preview, documents) if each.perplexity is not None
        ]
        bands.append(result.in_view(job, report, preview, "documents") | {"read": read})
    whole = [each for each in result.samples(previews[0], documents) if each.perplexity is None]
    return text(
        "report.html",
        **result.facts(job, report),
        bands=bands,
        read=[(each, samples[each.place]) for each in whole],
        alone=True,
        away="",
        by="documents",
        style=Markup((HERE / "static" / "winnow.css").read_text()),  # noqa: S704 (the page's own)
        ways=repeat.ways(server, job, keyed),
    )


def write_report(out: Path, material: Material, server: str) -> list[Path]:
    """Writes the report and, in a folder beside it, its plots as SVG and, with the extra `report`, PNG; the files."""
    folder = out.with_name(f"{out.stem}-plots")
    folder.mkdir(parents=True, exist_ok=True)
    out.write_text(report_html(material, server), encoding="utf-8")
    written = [out]
    for name, svg in _plots(material).items():
        written.append(folder / f"{name}.svg")
        written[-1].write_text(svg, encoding="utf-8")
        image = _png(svg)
        if image is not None:
            written.append(folder / f"{name}.png")
            written[-1].write_bytes(image)
    return written


def _plots(material: Material) -> dict[str, str]:
    """The plots as SVG files, by name."""
    job, report, previews, _ = material
    made = {"lengths": charts.lengths(report["lengths"])}
    for preview in previews:
        view = result.in_view(job, report, preview, "documents")
        made[f"histogram-{preview['id']}"] = view["plots"][0]
        if view["domains"] > 1:
            for what in ("documents", "tokens"):
                made[f"domains-{preview['id']}-{what}"] = charts.domains(_by_change(view["rows"], what), what)
    return {name: charts.alone(svg) for name, svg in made.items()}


def _by_change(rows: Rows, what: str) -> Rows:
    """Rows of domains, what gains most share first."""
    return sorted(rows, key=lambda row: float(row[what]["before"] - row[what]["after"]))


def _png(svg: str) -> bytes | None:
    """A plot as a PNG of twice its size, or None where the extra `report` is not installed."""
    try:
        resvg = import_module("resvg_py")
    except ImportError:
        return None
    return bytes(resvg.svg_to_bytes(svg_string=svg, zoom=2))
