"""Kind `classifier`: the value that a classifier gives each document, a node for each, a part for each shard."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pruner.tables.part_file import read_metadata
from pruner.tables.storage import Storage
from pruner.tables.values import CLASSIFIER, ValueCounts, ValuesWriter, with_text
from scorer.errors import OutOfMemory
from service.contract.scorers import ScorerSpec
from service.kinds import model, model_files, passes
from service.kinds.documents import ShardTables
from service.kinds.job_files import JobFiles
from service.kinds.node import Beat, Counts, Node, ShardPaths, Task
from service.store.records import ModelRecord
from service.store.workspace import digest

if TYPE_CHECKING:
    from scorer.classifier.classifier import Classifier

VERSION = 4  # raised when a change of the code changes values or their files
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


def prepare(task: Task) -> "ShardClassifying | None":
    """Begins to read a shard, if its part is not there and its model is loaded."""
    found, dtype = classifiers(task.job).get(task.node.which), task.job.record.request.scoring.dtype
    if found is None or task.storage.exists(task.path) or not model_files.has_classifier(task.models, found, dtype):
        return None
    return ShardClassifying(task, model_files.load_classifier(task.models, found, dtype))


def run(task: Task) -> Counts:
    """Scores a shard, unless its part is there. Raises OutOfMemory where the smallest batches are too large."""
    scoring: ShardClassifying | None = task.prepared
    try:
        if fresh := not task.storage.exists(task.path):
            with task.beat.allow(_LOAD_SECONDS):
                found = classifiers(task.job)[task.node.which]
                loaded = model_files.load_classifier(task.models, found, task.job.record.request.scoring.dtype)
            if scoring is None or scoring.stale or scoring.classifier is not loaded:
                _close(scoring)
                scoring = ShardClassifying(task, loaded)
            while not scoring.run(task.beat, task.read_ahead):
                scoring.close()
                # Outside the exception's reach, which keeps the tensors that fill the memory.
                if not loaded.halve():
                    raise OutOfMemory(f"{loaded.folder}: the device has too little memory to score with this model")
                scoring = ShardClassifying(task, loaded)  # from its start, so that one budget scores all of it
    finally:
        _close(scoring)
    return Counts(counters(task.storage, task.path), fresh)


def _close(scoring: "ShardClassifying | None") -> None:
    if scoring is not None:
        scoring.close()


class ShardClassifying:
    """A shard whose reading has begun, in a thread; `run` scores and writes it.

    Beginning needs no lease: nothing is written, and `close` may be called at any time.
    """

    def __init__(self, task: Task, classifier: "Classifier") -> None:
        """Raises FileNotFoundError where the job's plan is not there any more."""
        from scorer.classifier.scoring import classify

        self.classifier = classifier
        self._task, self._spec = task, task.job.scorers[task.node.which]
        self._tables = ShardTables(task)
        self._beat: Beat | None = None
        self._then: Callable[[], None] | None = None
        self._values = classify(
            classifier,
            self._tables.read_texts(),
            windows=self._spec.windows,
            aggregate=self._spec.aggregate,
            on_progress=self._on_progress,
        )

    @property
    def stale(self) -> bool:
        """Whether the classifier's budget has changed since reading began."""
        return self._values.budget != self.classifier.budget

    def close(self) -> None:
        """Ends the reading."""
        self._tables.end_reading()
        self._values.close()

    def run(self, beat: Beat, then: Callable[[], None]) -> bool:
        """Scores the shard and writes it, all of it with one budget; False where the device's memory is too small.

        `then` is called once when all is read, while the last batches run.
        """
        self._beat, self._then = beat, then
        task, about = self._task, dict[str, Any]()
        try:
            with ExitStack() as stack:
                writer = stack.enter_context(ValuesWriter(task.storage, task.path, CLASSIFIER, about))
                tables = stack.enter_context(self._tables)
                for batch, values in self._values:
                    writer.append(with_text(batch, values, CLASSIFIER.types[0]))
                    tables.append(batch)
                about.update(self.classifier.provenance())
                about.update(windows=self._spec.windows, aggregate=self._spec.aggregate)
        except OutOfMemory:
            return False
        return True

    def _on_progress(self, documents: int, tokens: int) -> None:
        if self._beat is not None:
            self._beat(documents, tokens)
        if self._then is not None and self._values.all_loaded:
            then, self._then = self._then, None
            then()
