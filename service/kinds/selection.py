"""Kind `selection`: the manifest of the documents that a selection keeps, one part for each selection."""

from collections.abc import Iterator

from pruner.select.selection import write_selection
from pruner.select.selection_record import SelectionRecord
from pruner.select.write_index import check_eligible
from pruner.spec import SelectionSpec
from service.kinds import index, order
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.workspace import digest

VERSION = 1


def folder(job: JobFiles, spec: SelectionSpec) -> str:
    """Where a selection lies. Raises FileNotFoundError for a job that has no scores to come yet."""
    return f"selection/{digest('selection', VERSION, order.folder(job, spec.order), spec.model_dump())}"


def path(job: JobFiles, spec: SelectionSpec) -> str:
    """A selection's record, written when its manifest is there."""
    return f"{folder(job, spec)}/selection.json"


def nodes(job: JobFiles) -> Iterator[Node]:
    """The selections of a job whose index can be named."""
    if job.named:
        for spec in job.needed_selections:
            yield Node(f"selection/{spec.id}", "light", "selecting", [path(job, spec)], needs=order.needs(spec.order))


def run(task: Task) -> Counts:
    """Writes the manifest. Raises InputError where there is nothing to select from, InputsGone."""
    job, found = task.job, index.find(task.job)
    name = task.node.name.partition("/")[2]
    spec = next((spec for spec in job.needed_selections if spec.id == name), None)
    if spec is None or found is None:
        raise InputsGone(name)
    check_eligible(task.storage, index.folder(job), found.counts)
    folders = index.folder(job), order.folder(job, spec.order), folder(job, spec)
    with task.beat.allow(60):
        write_selection(task.storage, *folders, spec, found.provenance, task.beat)
    return Counts(fresh=True)


def find(job: JobFiles, spec: SelectionSpec) -> SelectionRecord | None:
    """A selection of a job, or None while it is not made."""
    try:
        record = path(job, spec)
    except FileNotFoundError:
        return None
    return job.workspace.records.recall(SelectionRecord, record)
