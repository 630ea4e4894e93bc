"""Kind `selection`: the manifest of the documents that a selection keeps.

A selection has one node; that of many documents has another one before, for the parts of its manifest.
"""

from collections.abc import Iterator

from pruner.select.selection import SelectionWriter, part_count, part_path
from pruner.select.selection_record import SelectionRecord
from pruner.select.write_index import check_eligible
from pruner.spec import SelectionSpec
from service.kinds import index, order
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.workspace import digest

VERSION = 1
_PARTS = "parts"  # the step before the last one, of many documents


def folder(job: JobFiles, spec: SelectionSpec) -> str:
    """Where a selection lies. Raises FileNotFoundError for a job that has no scores to come yet."""
    return f"selection/{digest('selection', VERSION, order.folder(job, spec.order), spec.model_dump())}"


def path(job: JobFiles, spec: SelectionSpec) -> str:
    """A selection's record, written when its manifest is there."""
    return f"{folder(job, spec)}/selection.json"


def node_name(spec: SelectionSpec) -> str:
    """The name of a selection's last node."""
    return f"selection/{spec.id}"


def nodes(job: JobFiles) -> Iterator[Node]:
    """The selections of a job whose index can be named."""
    if not job.named:
        return
    found = index.find(job)
    parts = 1 if found is None else part_count(found.counts.documents)
    for spec in job.needed_selections:
        needs = order.needs(spec.order)
        if parts > 1:
            paths = [part_path(folder(job, spec), part) for part in range(parts)]
            yield Node(name := f"{node_name(spec)}/{_PARTS}", "light", "selecting", paths, needs)
            needs = (name,)
        # If the index appears between two looks for it, this node is ready too early: its run then raises InputsGone.
        yield Node(node_name(spec), "light", "selecting", [path(job, spec)], needs)


def run(task: Task) -> Counts:
    """Writes the manifest or a part of it. Raises InputError where there is nothing to select from, InputsGone."""
    job, found = task.job, index.find(task.job)
    name, _, step = task.node.which.partition("/")
    spec = next((spec for spec in job.needed_selections if spec.id == name), None)
    if spec is None or found is None:
        raise InputsGone(name)
    check_eligible(task.storage, index.folder(job), found.counts)
    folders = index.folder(job), order.folder(job, spec.order), folder(job, spec)
    try:
        with task.beat.allow(60):
            writer = SelectionWriter(task.storage, *folders, spec, found.provenance)
            if step == _PARTS:
                writer.write_part(task.part, task.beat)
            else:
                writer.write(task.beat)
    except FileNotFoundError as error:
        raise InputsGone(str(error)) from None
    return Counts(fresh=True)


def find(job: JobFiles, spec: SelectionSpec) -> SelectionRecord | None:
    """A selection of a job, or None while it is not made."""
    try:
        record = path(job, spec)
    except FileNotFoundError:
        return None
    return job.workspace.records.recall(SelectionRecord, record)
