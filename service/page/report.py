"""The report of a job as one HTML file without scripts or links to a service, and its plots as files."""

from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from pruner.spec import BY_BYTE, BY_TOKEN, Order
from service.contract.network import job_path
from service.contract.schemas import Job
from service.jobs.explore import document_reader, preview_by, ranks_in
from service.kinds import report as report_kind
from service.kinds.job_files import JobFiles
from service.page import charts, job_view, snippets
from service.page.render import FOLDER, render
from service.page.samples import Sample, SampleSpan

_SELECTIONS_MAX = 12  # shown in full
SAMPLE_CHARACTERS = 1000  # of each document's text

Rows = list[dict[str, Any]]


class ReportData(NamedTuple):
    """The answers of the API that a report is made of: a preview of each selection, and documents by their span."""

    job: dict[str, Any]
    report: dict[str, Any]
    previews: list[dict[str, Any]]
    samples: dict[SampleSpan, Rows]


def shown_selections(job: dict[str, Any]) -> list[str]:
    """The ids of the selections of a job that a report shows in full."""
    return [made["id"] for made in job["selections"][:_SELECTIONS_MAX]]


def sample_spans(job: dict[str, Any], report: dict[str, Any], previews: Rows) -> set[SampleSpan]:
    """The documents that a report shows."""
    return {sample.span for preview in previews for sample in job_view.samples_of(job, report, preview)}


async def fetch_report_data(get: Callable[..., Awaitable[Any]], job_id: str) -> ReportData:
    """Gets the data by `get`, a function of an API path and query parameters. Raises what `get` raises."""
    job = await get(job_path(job_id))
    report = await get(job_path(job_id, "report"))
    previews = [await get(job_path(job_id, "preview"), selection=made) for made in shown_selections(job)]
    samples = {}
    for span in sample_spans(job, report, previews):
        page = {"rank": span.rank, "count": span.documents, "domain": span.domain, "per": span.per}
        page["score"] = span.score
        found = await get(job_path(job_id, "documents"), **page, characters=SAMPLE_CHARACTERS)
        samples[span] = found["data"]
    return ReportData(job, report, previews, samples)


def report_html(data: ReportData, server: str, with_key: bool = False) -> str:
    """The report as HTML. Its code examples submit the job to `server`, with an API key if `with_key`."""
    job, report, previews, documents = data
    selections, common = [], dict[SampleSpan, Sample]()
    for preview in previews:
        # Samples without a threshold are the same for all selections in an order: they are shown once, further down.
        found = job_view.samples_of(job, report, preview)
        own = [each for each in found if each.at_threshold]
        common |= {each.span: each for each in found if not each.at_threshold}
        values = job_view.preview_values(job, report, preview, "documents")
        selections.append(values | {"read_samples": [(each, documents[each.span]) for each in own]})
    return render(
        "report.html",
        **job_view.job_values(job, report),
        selections=selections,
        common_samples=[(each, documents[each.span]) for each in common.values()],
        standalone=True,
        scoring_error="",
        style=Markup((FOLDER / "static" / "winnow.css").read_text()),  # noqa: S704 (the page's own file)
        snippets=snippets.snippets(server, job, with_key),
    )


def write_report(out: Path, data: ReportData, server: str) -> list[Path]:
    """Writes the report and, in the folder `<stem>-plots` beside it, its plots as SVG and PNG; returns the files.

    PNG files need the extra `report`; without it only SVG files are written.
    """
    folder = out.with_name(f"{out.stem}-plots")
    folder.mkdir(parents=True, exist_ok=True)
    out.write_text(report_html(data, server), encoding="utf-8")
    written = [out]
    for name, svg in _plots(data).items():
        written.append(folder / f"{name}.svg")
        written[-1].write_text(svg, encoding="utf-8")
        image = _png(svg)
        if image is not None:
            written.append(folder / f"{name}.png")
            written[-1].write_bytes(image)
    return written


def write_local_report(files: JobFiles, job: Job, out: Path) -> None:
    """`write_report` of a job that ran without a service."""
    storage, shown = files.workspace.storage, job.model_dump(mode="json")
    report = storage.read_json(report_kind.path(files))
    by_id = {spec.id: spec for spec in files.selections}
    specs = [by_id[made] for made in shown_selections(shown)]
    previews = [preview_by(files, spec, lambda ranked: ranks_in(files, ranked)).model_dump() for spec in specs]
    samples = {}
    for span in sample_spans(shown, report, previews):
        ranked = BY_TOKEN if span.per is None else BY_BYTE
        ranked = ranked if span.score is None else Order("score", column=span.score)
        reader = document_reader(files, ranks_in(files, ranked), span.score)
        found = reader.read(span.rank, span.documents, SAMPLE_CHARACTERS, span.domain)
        samples[span] = found.model_dump(mode="json")["data"]
    write_report(out, ReportData(shown, report, previews, samples), "http://127.0.0.1:8000")


def _plots(data: ReportData) -> dict[str, str]:
    """The plots as the text of SVG files, by name."""
    has_reference = data.job["request"]["reference"] is not None
    plots = {"lengths": charts.lengths(data.report["lengths"])} if has_reference else {}
    for preview in data.previews:
        values = job_view.preview_values(data.job, data.report, preview, "documents")
        plots[f"histogram-{preview['id']}"] = values["plots"][0]
        if job_view.domain_count(data.report) > 1:
            for unit in ("documents", "tokens") if has_reference else ("documents",):
                rows = sorted(values["domain_rows"], key=lambda row: float(row[unit]["before"] - row[unit]["after"]))
                plots[f"domains-{preview['id']}-{unit}"] = charts.domains(rows, unit)
    return {name: charts.standalone(svg) for name, svg in plots.items()}


def _png(svg: str) -> bytes | None:
    """A plot as a PNG of twice its size, or None if the extra `report` is not installed."""
    try:
        resvg = import_module("resvg_py")
    except ImportError:
        return None
    return bytes(resvg.svg_to_bytes(svg_string=svg, zoom=2))
