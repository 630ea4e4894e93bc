"""Kind `index`: all scores of a job in the order of its corpus, and what selections and previews need, one part."""

from collections.abc import Iterator
from typing import Any

from pruner.corpus.train_split import Split
from pruner.select.write_index import IndexCounts, write_index
from pruner.tables.records import Record
from service.kinds import documents, scores
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.kinds.provenance import provenance
from service.store.workspace import digest

VERSION = 2
_SILENCE_SECONDS = 120.0  # between two signs of life: sorting 10^8 documents takes some seconds a step


class IndexRecord(Record):
    """`index/<key>/index.json`: written when the tables and the arrays beside it are there."""

    counts: IndexCounts
    shards: int
    provenance: dict[str, Any]


def train_split(job: JobFiles) -> Split | None:
    """The documents that train the reference and are in no selection; None where it is not trained."""
    train = job.record.request.reference.train
    return Split(train.seed, train.fraction) if train is not None else None


def folder(job: JobFiles) -> str:
    """Where the index lies, by its scores, documents and split. Raises FileNotFoundError while these have no names."""
    if (outcome := job.outcome) is not None and outcome.index is not None:
        return outcome.index
    if job.corpus is None or job.model is None:
        raise FileNotFoundError("the job's plan or reference is not in the workspace")
    inputs = [job.corpus.digest, scores.paths(job, job.model).folder, documents.paths(job).folder]
    return f"index/{digest('index', VERSION, *inputs, train_split(job))}"


def nodes(job: JobFiles) -> Iterator[Node]:
    """The index of a job whose scores can be named."""
    if job.corpus is not None and job.model is not None:
        yield Node("index", "light", "selecting", [f"{folder(job)}/index.json"], needs=("scores", "documents"))


def run(task: Task) -> Counts:
    """Joins the shards' parts. Raises InputError for a corpus without documents, InputsGone."""
    job = task.job
    if job.model is None:
        raise InputsGone("the reference")
    parts = documents.paths(job), scores.paths(job, job.model)
    try:
        with task.beat.allow(_SILENCE_SECONDS):
            corpus = job.record.request.corpus
            counts = write_index(task.storage, folder(job), job.plan, corpus, *parts, train_split(job), task.beat)
    except FileNotFoundError as error:
        raise InputsGone(str(error)) from None
    about = provenance(job) | {"scorers": counts.scorers}
    record = IndexRecord(counts=counts, shards=len(parts[1]), provenance=about)
    job.workspace.records.write(task.path, record)
    return Counts(fresh=True)


def find(job: JobFiles) -> IndexRecord | None:
    """The index of a job, or None while it is not there."""
    try:
        path = f"{folder(job)}/index.json"
    except FileNotFoundError:
        return None
    return job.workspace.records.recall(IndexRecord, path)
