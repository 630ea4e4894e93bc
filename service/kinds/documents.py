"""Kind `documents`: row, id, domain, bytes and reject of every document, once a corpus, a part for each shard.

Scoring a shard writes its part on the way, as it reads the same rows; this kind makes the parts that are missing then.
"""

from collections.abc import Iterator

from pruner.corpus.sandbox import read_shard
from pruner.tables.documents import DocumentsWriter
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, Node, ShardPaths, Task
from service.store.workspace import digest

VERSION = 2


def paths(job: JobFiles) -> ShardPaths:
    """The parts."""
    return ShardPaths(f"documents/{digest('documents', VERSION)}", job)


def nodes(job: JobFiles) -> Iterator[Node]:
    """The documents of a planned job."""
    if job.corpus is not None and job.model is not None:
        yield Node("documents", "light", "scoring", paths(job), needs=("corpus", "scores"))


def run(task: Task) -> Counts:
    """Reads a shard, unless its part is there. Raises InputError."""
    if task.storage.exists(task.path):
        return Counts()
    record, plan = task.job.record, task.job.plan
    with DocumentsWriter(task.storage, task.path) as writer:
        shard = plan.shards[task.part]
        for batch in read_shard(plan, shard, record.request.corpus, record.access.roots, task.beat):
            task.beat()
            writer.append(batch)
    return Counts(fresh=True)
