"""Kind `classifier`: the value that a classifier gives each document, a node for each, a part for each shard."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pruner.tables.part_file import read_metadata
from pruner.tables.storage import Storage
from pruner.tables.values import CLASSIFIER, ValueCounts, ValuesWriter, with_text
from scorer.errors import OutOfMemory
from service.contract.scorers import ScorerSpec
from service.kinds import model, model_files, passes
from service.kinds.documents import ShardTables
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, Node, ShardPaths, Task
from service.store.records import ModelRecord
from service.store.workspace import digest

if TYPE_CHECKING:
    from scorer.classifier.classifier import Classifier

VERSION = 1  # raised when a change of the code changes values or their files
_LOAD_SECONDS = 600.0  # in which a model must load


def paths(job: JobFiles, found: ModelRecord, spec: ScorerSpec) -> ShardPaths:
    """The parts by this model."""
    settings = {"dtype": job.record.request.scoring.dtype, "windows": spec.windows, "aggregate": spec.aggregate}
    name = digest("classifier", VERSION, found.sha256, found.tokenizer_sha256, settings)
    return ShardPaths(f"classifier/{name}", job)


def nodes(job: JobFiles) -> Iterator[Node]:
    """The classifiers of a planned job whose models are known."""
    if not job.named:
        return
    for name, found in classifiers(job).items():
        node = passes.further("classifier", name)
        needs = ("corpus", model.node_name(name), *passes.before(job, node))
        yield Node(node, "gpu", "scoring", paths(job, found, job.scorers[name]), needs=needs)


def classifiers(job: JobFiles) -> dict[str, ModelRecord]:
    """The models of classifiers that are known, by scorer."""
    names = [name for name, spec in job.scorers.items() if spec.kind == "classifier"]
    return {name: found for name in names if (found := job.scorer_model(name)) is not None}


def counters(storage: Storage, path: str) -> dict[str, int]:
    """What a part that is there holds."""
    return {"documents": read_metadata(storage, path, ValueCounts).documents}


def run(task: Task) -> Counts:
    """Scores a shard, unless its part is there. Raises OutOfMemory where the smallest batches are too large."""
    if fresh := not task.storage.exists(task.path):
        name = task.node.name.partition("/")[2]
        with task.beat.allow(_LOAD_SECONDS):
            dtype = task.job.record.request.scoring.dtype
            found = classifiers(task.job)[name]
            loaded = model_files.load_classifier(task.models, found, dtype)
        while not _score(task, loaded, task.job.scorers[name]):
            # Outside the exception's reach, which keeps the tensors that fill the memory.
            if not loaded.halve():
                raise OutOfMemory(f"{loaded.folder}: the device has too little memory to score with this model")
    return Counts(counters(task.storage, task.path), fresh)


def _score(task: Task, loaded: "Classifier", spec: ScorerSpec) -> bool:
    """Scores the shard and writes it, all of it with one budget; False where the device's memory is too small."""
    from scorer.classifier.scoring import classify

    tables = ShardTables(task)
    about: dict[str, Any] = {}

    def blocks() -> Iterator[tuple[list[str], pa.RecordBatch]]:
        for batch in tables.read(lambda: None):
            yield batch.column("text").drop_null().to_pylist(), batch.drop_columns(["text"])

    scoring = classify(loaded, blocks(), windows=spec.windows, aggregate=spec.aggregate, on_progress=task.beat)
    try:
        with ExitStack() as stack:
            writer = stack.enter_context(ValuesWriter(task.storage, task.path, CLASSIFIER, about))
            stack.enter_context(tables)
            for batch, values in scoring:
                writer.append(with_text(batch, values, CLASSIFIER.types[0]))
                tables.append(batch)
            about.update(loaded.provenance() | {"windows": spec.windows, "aggregate": spec.aggregate})
    except OutOfMemory:
        return False
    finally:
        scoring.close()
    return True
