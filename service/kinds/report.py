"""Kind `report`: counts, quantiles and histograms of a job's scores, and its selections beside them, one part."""

from collections.abc import Iterator

from pruner.report import report
from pruner.select.kept_scores import SELECTIONS_MAX, count_kept
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection import choose
from pruner.select.write_index import read_summary
from pruner.tables.records import write_record
from pruner.tables.stored_table import StoredTable
from service.kinds import comparison, index, order, selection
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.workspace import digest

VERSION = 2


def path(job: JobFiles) -> str:
    """The report of a job's scores and present selections."""
    made = [selection.folder(job, spec) for spec in job.selections]
    if job.outcome is not None and job.outcome.report == 1:
        former = f"report/{digest('report', 1, index.folder(job), made)}/report.json"
        if job.workspace.storage.exists(former):  # stays as it is, without a comparison
            return former
    return f"report/{digest('report', VERSION, comparison.path(job), made)}/report.json"


def nodes(job: JobFiles) -> Iterator[Node]:
    """The report of a job that has selections."""
    if job.named and job.selections:
        needs = [selection.node_name(spec) for spec in job.selections]
        # The first selections are compared row by row, by their orders, which may have been removed since.
        orders = [name for spec in job.selections[:SELECTIONS_MAX] for name in order.needs(spec.order)]
        yield Node(
            "report", "light", "selecting", [path(job)], needs=(*dict.fromkeys([*orders, "comparison", *needs]),)
        )


def run(task: Task) -> Counts:
    """Writes the report. Raises InputsGone where a selection, its order or the comparison is not there."""
    job, storage = task.job, task.storage
    compared, made = comparison.find(job), [selection.find(job, spec) for spec in job.selections]
    if index.find(job) is None or compared is None or None in made:
        raise InputsGone("a selection")
    there = [record for record in made if record is not None]
    try:
        with task.beat.allow(60):
            folder = index.folder(job)
            summary, table = read_summary(storage, folder), StoredTable(storage, f"{folder}/{SCORES_FILE}")
            chosen = [
                (record, choose(storage, order.folder(job, record.spec.order), record.spec))
                for record in there[:SELECTIONS_MAX]
            ]
            eligible = summary.eligible.documents, summary.eligible.tokens
            kept = count_kept(table, compared.scores, chosen, eligible, task.beat)
    except FileNotFoundError as error:
        raise InputsGone(str(error)) from None
    write_record(storage, task.path, report(summary, there, kept, compared.correlations))
    return Counts(fresh=True)
