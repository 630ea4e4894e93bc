"""`winnow export` without a server: exports a selection of a folder that `winnow prune` filled, resumable."""

import os
from collections.abc import Callable
from pathlib import Path

from pruner.errors import InputError
from pruner.export.export_record import ExportRecord
from pruner.select.score_table import SCORES_FILE
from service.contract.schemas import Export, ExportOptions
from service.jobs.exports import show_export
from service.jobs.lifecycle import Lifecycle
from service.kinds import export, index
from service.kinds.job_files import JobFiles
from service.queue.tasks import JobState
from service.store.records import ALL, WantedExport
from service.store.workspace import Workspace
from service.work import results
from service.work.local import ended_jobs, is_copy, pruned_workspace, run_job

_WORKERS_MAX = 16  # each with a reader process of up to 300 MB


def export_selection(
    source: Path, selection_id: str, options: ExportOptions, on_progress: Callable[[Export], None]
) -> ExportRecord:
    """Exports a selection of the results in `source`, or ALL documents, to the folder or URL `options.out`.

    A killed export with the same options goes on; one with others begins anew. `on_progress` is called now and then,
    and may raise to end the export. Raises InputError.
    """
    with pruned_workspace(source) as workspace:
        files, wanted = _find(workspace, source, selection_id, options)
        workspace.unwant_exports(files.record)  # this command makes one export
        export.begin(files, wanted)
        fresh = JobFiles(workspace, files.record)

        def tell(_lifecycle: Lifecycle, state: JobState | None) -> None:
            on_progress(show_export(fresh, wanted, state, None))

        run_job(fresh, "auto", tell, min(_cores(), _WORKERS_MAX))
        made = export.find(fresh, wanted)
        if made is None:
            raise InputError(f"{source}: the export was not made: run `winnow prune` again")
        return made


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _find(
    workspace: Workspace, source: Path, selection_id: str, options: ExportOptions
) -> tuple[JobFiles, WantedExport]:
    """The job whose results lie in `source`, and its export. Raises InputError for an unknown selection."""
    there = [ALL]
    for files in ended_jobs(workspace):
        for spec in files.selections:
            if is_copy(source / results.manifest_file(spec.id), files, spec):
                there.append(spec.id)
                if spec.id == selection_id:
                    return files, WantedExport.of(spec, options)
        if selection_id == ALL and _has_scores(files, source):
            return files, WantedExport.of(None, options)
    raise InputError(f"{source}: has no selection {selection_id}; it has {', '.join(sorted(set(there)))}")


def _has_scores(files: JobFiles, source: Path) -> bool:
    if index.find(files) is None or not files.selections:
        return False
    return results.has_scores(source, files.workspace.storage, f"{index.folder(files)}/{SCORES_FILE}")
