"""Kind `scores`: nll and tokens of every document, a part for each shard, row-aligned with `documents`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pruner.corpus.sandbox import read_shard
from pruner.tables.documents import DocumentsWriter
from pruner.tables.shard_scores import ScoresWriter, read_counts
from pruner.tables.storage import Storage
from scorer.errors import OutOfMemory
from service.kinds import documents, model_files
from service.kinds.job_files import JobFiles
from service.kinds.node import Beat, Counts, Node, ShardPaths, Task
from service.store.records import ModelRecord
from service.store.workspace import digest

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Reference

log = logging.getLogger("winnow.scores")
ENGINE = 9  # version of this kind: raised when a change of the code changes scores or their files
_LOAD_SECONDS = 600.0  # in which a model must load and compile


def paths(job: JobFiles, model: ModelRecord) -> ShardPaths:
    """The parts by this model."""
    scoring = job.record.request.scoring.model_dump()
    return ShardPaths(f"scores/{digest('scores', ENGINE, model.sha256, model.tokenizer_sha256, scoring)}", job)


def nodes(job: JobFiles) -> Iterator[Node]:
    """The scores of a planned job whose reference is known."""
    if job.corpus is not None and job.model is not None:
        yield Node("scores", "gpu", "scoring", paths(job, job.model), needs=("corpus", "model"))


def counters(storage: Storage, path: str) -> dict[str, int]:
    """What a part that is there holds."""
    found = read_counts(storage, path)
    return {"documents": found.documents, "tokens": found.tokens, "rejects": found.rejects}


def prepare(task: Task) -> "ShardScoring | None":
    """Begins to read a shard, if its scores are not there and its model is loaded."""
    if not _loaded(task) or task.storage.exists(task.path):
        return None
    return ShardScoring(task, _model(task))


def run(task: Task) -> Counts:
    """Scores a shard, unless its scores are there. Raises OutOfMemory where the smallest batches are too large."""
    scoring: ShardScoring | None = task.prepared
    try:
        if fresh := not task.storage.exists(task.path):
            with task.beat.allow(_LOAD_SECONDS):
                model = _model(task)
            if scoring is None or scoring.stale or scoring.model is not model:
                _close(scoring)
                scoring = ShardScoring(task, model)
            while not scoring.run(task.beat, task.read_ahead):
                # Outside the exception's reach, which keeps the tensors that fill the memory.
                with task.beat.allow(_LOAD_SECONDS):  # it may compile the model again
                    smaller = model.halve()
                if not smaller:
                    raise OutOfMemory(f"{model.folder}: the device has too little memory to score with this model")
                scoring = ShardScoring(task, model)  # from its start, so that one budget scores all of it
    finally:
        _close(scoring)
    return Counts(counters(task.storage, task.path), fresh)


def _loaded(task: Task) -> bool:
    model = task.job.model
    return model is not None and task.models.has(model.fingerprint, task.job.record.request.scoring.dtype)


def _model(task: Task) -> "Reference":
    if task.job.model is None:
        raise FileNotFoundError("the reference that the job trained is no longer in the workspace")
    return model_files.load(task.models, task.job.workspace, task.job.model, task.job.record.request.scoring.dtype)


def _close(scoring: "ShardScoring | None") -> None:
    if scoring is not None:
        scoring.close()


class ShardScoring:
    """A shard whose reading has begun, in a thread; `run` scores and writes it.

    Beginning needs no lease: nothing is written, and `close` may be called at any time.
    """

    def __init__(self, task: Task, model: "Reference") -> None:
        """Raises FileNotFoundError where the job's plan is not there any more."""
        from scorer.engine.scoring import score

        self.model = model
        self._task, self._closed = task, False
        self._beat: Beat | None = None
        self._then: Callable[[], None] | None = None
        stride = task.job.record.request.scoring.stride
        self._scores = score(model, self._blocks(), stride=stride, on_progress=self._on_progress)

    @property
    def stale(self) -> bool:
        """Whether the model's budget has changed since reading began."""
        return self._scores.budget != self.model.budget

    def close(self) -> None:
        """Ends the reading."""
        self._closed = True
        self._scores.close()

    def run(self, beat: Beat, then: Callable[[], None]) -> bool:
        """Scores the shard and writes it, all of it with one budget; False where the device's memory is too small.

        `then` is called once when all is read, while the last batches run.
        """
        self._beat, self._then = beat, then
        task, storage = self._task, self._task.storage
        about: dict[str, Any] = {}
        rows = documents.paths(task.job)[task.part]
        try:
            with ExitStack() as stack:
                scores = stack.enter_context(ScoresWriter(storage, task.path, about))
                table = stack.enter_context(DocumentsWriter(storage, rows)) if not storage.exists(rows) else None
                for batch, nll, tokens in self._scores:
                    scores.append(batch, tokens, nll)
                    if table is not None:
                        table.append(batch)
                about.update(self.model.provenance())  # as it is in the end: a fast tokenizer may have been given up
        except OutOfMemory:
            return False
        done = self._scores
        log.info("%s: %d tokens in %d batches, %.2f %% waste", task.path, done.tokens, done.batches, 100 * done.waste)
        return True

    def _blocks(self) -> Iterator[tuple[list[str], pa.RecordBatch]]:
        """The texts of each batch of rows, and the batch without them, which waits for their scores."""
        record, plan = self._task.job.record, self._task.job.plan
        shard = plan.shards[self._task.part]
        for batch in read_shard(plan, shard, record.request.corpus, record.access.roots, self._end_if_closed):
            texts = batch.column("text").drop_null().to_pylist()
            yield texts, batch.drop_columns(["text"])

    def _end_if_closed(self) -> None:
        if self._closed:
            raise InterruptedError

    def _on_progress(self, documents: int, tokens: int) -> None:
        if self._beat is not None:
            self._beat(documents, tokens)
        if self._then is not None and self._scores.all_loaded:
            then, self._then = self._then, None
            then()
