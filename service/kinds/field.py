"""Kind `field`: the numbers in a field of the corpus, a node for each such scorer, a part for each shard."""

from collections.abc import Iterator

from pruner.corpus.numbers import field_numbers
from pruner.corpus.sandbox import read_shard
from pruner.tables.values import FIELD, ValuesWriter
from service.kinds import passes
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, Node, ShardPaths, Task
from service.store.workspace import digest

VERSION = 1


def paths(job: JobFiles, field: str) -> ShardPaths:
    """The parts of a field."""
    return ShardPaths(f"field/{digest('field', VERSION, field)}", job)


def nodes(job: JobFiles) -> Iterator[Node]:
    """The field scorers of a planned job."""
    if job.named:
        for name, field in fields(job).items():
            node = passes.further("field", name)
            yield Node(node, "light", "scoring", paths(job, field), needs=("corpus", *passes.before(job, node)))


def fields(job: JobFiles) -> dict[str, str]:
    """The fields that score, by scorer."""
    return {name: spec.field for name, spec in job.scorers.items() if spec.field is not None}


def run(task: Task) -> Counts:
    """Reads a shard, unless its part is there. Raises InputError."""
    if task.storage.exists(task.path):
        return Counts()
    record, plan = task.job.record, task.job.plan
    field = fields(task.job)[task.node.which]
    shard = plan.shards[task.part]
    files = plan.files_of(shard)
    with writer(task, field) as numbers:
        for batch in read_shard(plan, shard, record.request.corpus, record.access.roots, task.beat, columns=(field,)):
            task.beat()
            numbers.append(field_numbers(batch, field, files))
    return Counts(fresh=True)


def writer(task: Task, field: str) -> ValuesWriter:
    """The writer of a field's part, of the task's shard."""
    return ValuesWriter(task.storage, paths(task.job, field)[task.part], FIELD, {"field": field})
