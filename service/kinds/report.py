"""Kind `report`: counts, quantiles and histograms of a job's scores, and its selections beside them, one part."""

from collections.abc import Iterator

from pruner.report import report
from pruner.select.write_index import read_summary
from pruner.tables.records import write_record
from service.kinds import index, selection
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.workspace import digest

VERSION = 1


def path(job: JobFiles) -> str:
    """The report of a job's scores and present selections."""
    made = [selection.folder(job, spec) for spec in job.selections]
    return f"report/{digest('report', VERSION, index.folder(job), made)}/report.json"


def nodes(job: JobFiles) -> Iterator[Node]:
    """The report of a job that has selections."""
    if job.named and job.selections:
        needs = tuple(f"selection/{spec.id}" for spec in job.selections)
        yield Node("report", "light", "selecting", [path(job)], needs=("index", *needs))


def run(task: Task) -> Counts:
    """Writes the report. Raises InputsGone where a selection is not there."""
    job, found = task.job, index.find(task.job)
    made = [selection.find(job, spec) for spec in job.selections]
    if found is None or None in made:
        raise InputsGone("a selection")
    there = [record for record in made if record is not None]
    write_record(task.storage, task.path, report(read_summary(task.storage, index.folder(job)), there))
    return Counts(fresh=True)
