"""Exports of a job as its users see them: asked for, listed, shown."""

from pruner.spec import SelectionSpec
from service.contract.schemas import Export, ExportOptions, ExportProgress, Problem
from service.jobs.jobs import Conflict, Jobs, not_there
from service.kinds import export, selection
from service.kinds.job_files import JobFiles
from service.queue.tasks import JobState
from service.store.records import ALL, WantedExport


class UnknownExport(LookupError):
    """The job has no such selection or export. The message is one line."""


def add_export(
    jobs: Jobs, job_id: str, selection_id: str, options: ExportOptions, export_roots: tuple[str, ...]
) -> Export:
    """Asks for an export of a selection, or of ALL documents; one that has failed is tried again.

    It may be written to the export roots and the workspace. An unfinished export of the same job to the same place is
    given up. Raises UnknownJob, UnknownExport for a selection that the job does not have, InputError for a place that
    is not allowed, and Conflict while the job has not succeeded or the selection is not made.
    """
    job, files = jobs.files(job_id)
    if job.status != "succeeded":
        raise not_there(job.status, "documents to export")
    wanted = WantedExport.of(_selection(files, selection_id), options, export_roots)
    export.check_place(files, wanted)
    export.begin(files, wanted)
    jobs.lifecycle.advance(job_id)
    return find_export(jobs, job_id, wanted.id)


def list_exports(jobs: Jobs, job_id: str) -> list[Export]:
    """All exports of a job, by selection. Raises UnknownJob."""
    _, files = jobs.files(job_id)
    state, failed = jobs.queue.state(job_id), jobs.workspace.failed_exports(job_id)
    found = [show_export(files, wanted, state, failed.get(wanted.id)) for wanted in _wanted(files)]
    return sorted(found, key=lambda shown: (shown.selection, shown.format, shown.id))


def find_export(jobs: Jobs, job_id: str, export_id: str) -> Export:
    """One export. Raises UnknownJob and UnknownExport."""
    _, files = jobs.files(job_id)
    wanted = find_wanted(files, export_id)
    problem = jobs.workspace.failed_exports(job_id).get(export_id)
    return show_export(files, wanted, jobs.queue.state(job_id), problem)


def find_wanted(files: JobFiles, export_id: str) -> WantedExport:
    """An export as it was asked for. Raises UnknownExport."""
    found = next((wanted for wanted in _wanted(files) if wanted.id == export_id), None)
    if found is None:
        raise UnknownExport(f"job {files.record.id} has no export {export_id}")
    return found


def show_export(files: JobFiles, wanted: WantedExport, state: JobState | None, problem: Problem | None) -> Export:
    """An export as returned; `state` is what the queue knows of its job."""
    made = export.find(files, wanted) if problem is None else None
    plan = export.find_plan(files, wanted)
    counters = {} if state is None else state.counters
    counted = counters.get(export.node_name(wanted, "parts"), {})
    begun = any(name.startswith(export.node_name(wanted)) and "started" in found for name, found in counters.items())
    return Export(
        id=wanted.id,
        selection=wanted.selection,
        **dict(wanted.options),
        status="failed" if problem else "succeeded" if made else "running" if begun else "queued",
        progress=ExportProgress(
            documents_total=plan.rows if plan else None,
            parts_done=len(plan.parts) if made and plan else counted.get("parts", 0),
            parts_total=len(plan.parts) if plan else None,
        ),
        files=made.files if made else (),
        error=problem,
    )


def _wanted(files: JobFiles) -> list[WantedExport]:
    return files.workspace.exports(files.record)


def _selection(files: JobFiles, selection_id: str) -> SelectionSpec | None:
    if selection_id == ALL:
        return None
    spec = next((spec for spec in files.selections if spec.id == selection_id), None)
    if spec is None:
        there = ", ".join([*(spec.id for spec in files.selections), ALL])
        raise UnknownExport(f"job {files.record.id} has no selection {selection_id}: it has {there}")
    if selection.find(files, spec) is None:
        raise Conflict(f"the selection {selection_id} is not made yet: ask again when it is")
    return spec
