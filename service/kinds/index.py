"""Kind `index`: all scores of a job in the order of its corpus, and what selections and previews need.

An index has one node; that of a large corpus has another one before, for the tables of scores of some shards each.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pruner.select.further import Further, of_classifier, of_field, of_prior, of_reference
from pruner.select.write_index import TABLES_FILE, IndexCounts, join_index, write_index, write_index_part
from pruner.tables.records import Record
from service.kinds import classifier, documents, field, passes, prior, scores
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, ShardPaths, Task
from service.kinds.provenance import provenance
from service.store.workspace import digest

VERSION = 6
PART_BYTES = 4 << 30  # of text, for each part of an index
_SILENCE_SECONDS = 120.0  # between two signs of life: sorting 10^8 documents takes some seconds a step


class IndexRecord(Record):
    """`index/<key>/index.json`: written when the tables and the arrays beside it are there."""

    counts: IndexCounts
    shards: int
    provenance: dict[str, Any]


def folder(job: JobFiles) -> str:
    """Where the index lies, by its scores, documents and split. Raises FileNotFoundError while these have no names."""
    if (outcome := job.outcome) is not None and outcome.index is not None:
        return outcome.index
    if job.corpus is None or not job.named:
        raise FileNotFoundError("the job's plan or a model of it is not in the workspace")
    inputs: list[object] = [job.corpus.digest, documents.paths(job).folder]
    if job.model is not None:
        inputs.append(scores.paths(job, job.model).folder)
    inputs += [[source.name, source.paths.folder] for source in _further(job)]
    return f"index/{digest('index', VERSION, *inputs, job.train_split)}"


class _Source(NamedTuple):
    """Where the columns of a further scorer come from."""

    name: str
    make: Callable[[str, ShardPaths], Further]
    paths: ShardPaths


def _further(job: JobFiles) -> Iterator[_Source]:
    """The sources of columns beside the reference's, in the order of the request."""
    for name, spec in job.scorers.items():
        model = job.scorer_model(name)
        if spec.field is not None:
            yield _Source(name, of_field, field.paths(job, spec.field))
        elif model is not None and spec.kind == "classifier":
            yield _Source(name, of_classifier, classifier.paths(job, model, spec))
        elif model is not None:
            yield _Source(name, of_reference, scores.paths(job, model))
    if job.model is not None:
        yield _Source(passes.PRIOR_COUNTS, of_prior, prior.paths(job))


def nodes(job: JobFiles) -> Iterator[Node]:
    """The index of a job whose scores can be named."""
    if job.corpus is None or not job.named:
        return
    needs = tuple(passes.of(job))
    groups = shard_groups(job.corpus.shards, job.corpus.text_bytes)
    if len(groups) > 1:
        paths = [f"{part}/{TABLES_FILE}" for part in _parts(job, len(groups))]
        yield Node("index/parts", "light", "selecting", paths, needs)
        needs = ("index/parts",)
    yield Node("index", "light", "selecting", [f"{folder(job)}/index.json"], needs)


def run(task: Task) -> Counts:
    """Joins the shards' parts. Raises InputError for a corpus without documents, InputsGone."""
    job = task.job
    if job.corpus is None or not job.named:
        raise InputsGone("a model")
    files = documents.paths(job), None if job.model is None else scores.paths(job, job.model)
    further = [source.make(source.name, source.paths) for source in _further(job)]
    groups, request = shard_groups(job.corpus.shards, job.corpus.text_bytes), job.record.request.corpus
    parts, split = _parts(job, len(groups)), job.train_split
    try:
        with task.beat.allow(_SILENCE_SECONDS):
            if task.node.name == "index/parts":
                part, shards = parts[task.part], groups[task.part]
                write_index_part(task.storage, part, job.plan, *files, split, shards, task.beat, further)
                return Counts(fresh=True)
            if len(groups) > 1:
                counts = join_index(task.storage, folder(job), parts, request, task.beat)
            else:
                counts = write_index(task.storage, folder(job), job.plan, request, *files, split, task.beat, further)
    except FileNotFoundError as error:
        raise InputsGone(str(error)) from None
    about = provenance(job) | {"scorers": counts.scorers}
    if job.scorers:
        about["scores"] = {
            name: {"kind": spec.kind, "field": spec.field, "scorers": counts.further.get(name, [])}
            for name, spec in job.scorers.items()
        }
    record = IndexRecord(counts=counts, shards=job.corpus.shards, provenance=about)
    job.workspace.records.write(task.path, record)
    for part in parts if len(groups) > 1 else ():
        task.storage.remove_tree(part)
    return Counts(fresh=True)


def shard_groups(shards: int, text_bytes: int) -> list[range]:
    """The shards of each part of an index: so many that they have about PART_BYTES of text."""
    size = max(1, -(-shards // max(1, -(-text_bytes // PART_BYTES))))
    return [range(first, min(first + size, shards)) for first in range(0, shards, size)]


def _parts(job: JobFiles, count: int) -> list[str]:
    """The folders of the parts of an index."""
    return [f"{folder(job)}/parts/{part}" for part in range(count)]


def find(job: JobFiles) -> IndexRecord | None:
    """The index of a job, or None while it is not there."""
    try:
        path = f"{folder(job)}/index.json"
    except FileNotFoundError:
        return None
    return job.workspace.records.recall(IndexRecord, path)
