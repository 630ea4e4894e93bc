"""Kind `scores`: nll and tokens of every document by a reference, a part for each shard, row-aligned with `documents`.

The job's reference has the node `scores`, a further one `scores/<name>`. Scoring a shard by the first also makes its
parts by further references with the same tokenizer, of the tokens that are there, and its documents, fields and priors.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from pruner.corpus.train_split import ShardRows
from pruner.select.histogram import BinsSoFar, ScoredRows
from pruner.tables.shard_scores import ScoresWriter, read_counts
from pruner.tables.storage import Storage
from pruner.tables.values import PRIOR, has_text, with_text
from scorer.errors import OutOfMemory
from scorer.prior import TokenPrior
from service.kinds import model, model_files, passes, prior
from service.kinds.documents import ShardTables
from service.kinds.job_files import JobFiles
from service.kinds.node import Beat, Counts, Node, ShardPaths, Task
from service.store.records import ModelRecord
from service.store.workspace import digest

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Reference
    from scorer.tokenizer.backends import Encoded

log = logging.getLogger("winnow.scores")
ENGINE = 15  # version of this kind: raised when a change of the code changes scores or their files
_COUNT_SECONDS = 1.0  # between two counts of the documents that are scored so far
_LOAD_SECONDS = 600.0  # in which a model must load and compile


def paths(job: JobFiles, model: ModelRecord) -> ShardPaths:
    """The parts by this model."""
    scoring = job.record.request.scoring.model_dump()
    return ShardPaths(f"scores/{digest('scores', ENGINE, model.sha256, model.tokenizer_sha256, scoring)}", job)


def nodes(job: JobFiles) -> Iterator[Node]:
    """The scores of a planned job whose models are known."""
    if not job.named:
        return
    if job.model is not None:
        needs: tuple[str, ...] = ("corpus", "model", passes.PRIOR_COUNTS)
        yield Node(passes.SCORES, "gpu", "scoring", paths(job, job.model), needs=needs)
    for name, found in further(job).items():
        node = passes.further("reference", name)
        needs = ("corpus", model.node_name(name), *passes.before(job, node))
        yield Node(node, "gpu", "scoring", paths(job, found), needs=needs)


def further(job: JobFiles) -> dict[str, ModelRecord]:
    """The further references that are known, by name."""
    names = [name for name, spec in job.scorers.items() if spec.kind == "reference"]
    return {name: found for name in names if (found := job.scorer_model(name)) is not None}


def counters(storage: Storage, path: str) -> dict[str, int]:
    """What a part that is there holds."""
    found = read_counts(storage, path)
    return {"documents": found.documents, "tokens": found.tokens, "rejects": found.rejects}


def prepare(task: Task) -> "ShardScoring | None":
    """Begins to read a shard, if its scores are not there and its model is loaded."""
    record = _record(task)
    loaded = record is not None and task.models.has(record.fingerprint, task.job.record.request.scoring.dtype)
    if record is None or not loaded or task.storage.exists(task.path):
        return None
    return ShardScoring(task, _load(task, record))


def run(task: Task) -> Counts:
    """Scores a shard, unless its scores are there. Raises OutOfMemory where the smallest batches are too large."""
    scoring: ShardScoring | None = task.prepared
    try:
        if fresh := not task.storage.exists(task.path):
            record = _record(task)
            if record is None:
                raise FileNotFoundError("the reference that the job trained is no longer in the workspace")
            with task.beat.allow(_LOAD_SECONDS):
                loaded = _load(task, record)
            if scoring is None or scoring.stale or scoring.model is not loaded:
                _close(scoring)
                scoring = ShardScoring(task, loaded)
            while not scoring.run(task.beat, task.read_ahead):
                _halve(task, loaded)
                scoring = ShardScoring(task, loaded)  # from its start, so that one budget scores all of it
            for other in scoring.others:
                _score_tokens(task, other, scoring)
    finally:
        _close(scoring)
    return Counts(counters(task.storage, task.path), fresh)


def _record(task: Task) -> ModelRecord | None:
    """The model of the task's node."""
    scorer = task.node.which
    return task.job.scorer_model(scorer) if scorer else task.job.model


def _load(task: Task, record: ModelRecord) -> "Reference":
    return model_files.load(task.models, task.job.workspace, record, task.job.record.request.scoring.dtype)


def _halve(task: Task, loaded: "Reference") -> None:
    """Halves a model's budget; to be called outside the exception's reach, which keeps tensors that fill the memory."""
    with task.beat.allow(_LOAD_SECONDS):  # it may compile the model again
        smaller = loaded.halve()
    if not smaller:
        raise OutOfMemory(f"{loaded.folder}: the device has too little memory to score with this model")


def _close(scoring: "ShardScoring | None") -> None:
    if scoring is not None:
        scoring.close()


class _Tokens(NamedTuple):
    """The tokens of a batch of rows, and the batch with its column `reject` alone."""

    tokens: "Encoded"
    rows: pa.RecordBatch


class ShardScoring:
    """A shard whose reading has begun, in a thread; `run` scores and writes it.

    Beginning needs no lease: nothing is written, and `close` may be called at any time. `others` are the further
    references that can score the tokens of this one, and `tokens` these tokens, kept if there are any.
    """

    def __init__(self, task: Task, model: "Reference") -> None:
        """Raises FileNotFoundError where the job's plan is not there any more."""
        from scorer.engine.scoring import score

        self.model = model
        self.others = _others(task, model)
        self.tokens: list[_Tokens] = []
        self._task = task
        self._tables = ShardTables(task)
        self._counted, self._counted_at = BinsSoFar(ShardRows.of(task.job.plan, task.part), task.job.train_split), 0.0
        self._beat: Beat | None = None
        self._then: Callable[[], None] | None = None
        stride = task.job.record.request.scoring.stride
        self._scores = score(model, self._tables.read_texts(), stride=stride, on_progress=self._on_progress)

    @property
    def stale(self) -> bool:
        """Whether the model's budget has changed since reading began."""
        return self._scores.budget != self.model.budget

    def close(self) -> None:
        """Ends the reading."""
        self._tables.end_reading()
        self._scores.close()

    def run(self, beat: Beat, then: Callable[[], None]) -> bool:
        """Scores the shard and writes it, all of it with one budget; False where the device's memory is too small.

        `then` is called once when all is read, while the last batches run.
        """
        self._beat, self._then = beat, then
        task, about = self._task, dict[str, Any]()
        common = self._missing_prior()
        try:
            with ExitStack() as stack:
                scores = stack.enter_context(ScoresWriter(task.storage, task.path, about))
                tables = stack.enter_context(self._tables)
                priors = stack.enter_context(prior.writer(task)) if common is not None else None
                for batch, nll, n_tokens, surprisals, tokens in self._scores:
                    scores.append(batch, n_tokens, nll, surprisals)
                    tables.append(batch)
                    self._counted.append(_scored_rows(batch, n_tokens, nll))
                    if priors is not None and common is not None:
                        priors.append(*(with_text(batch, found, PRIOR.types[0]) for found in common.measure(tokens)))
                    if self.others:
                        self.tokens.append(_Tokens(tokens, batch.select(["reject"])))
                about.update(self.model.provenance())  # as it is in the end: a fast tokenizer may have been given up
        except OutOfMemory:
            return False
        done = self._scores
        log.info("%s: %d tokens in %d batches, %.2f %% waste", task.path, done.tokens, done.batches, 100 * done.waste)
        return True

    def beat(self) -> None:
        """A sign of life after all is scored."""
        if self._beat is not None:
            self._beat(self._scores.documents, self._scores.tokens)

    def _missing_prior(self) -> TokenPrior | None:
        """The prior, if the tokens are those of the job's reference and the shard's part is not there."""
        task = self._task
        if task.node.name != passes.SCORES or task.storage.exists(prior.paths(task.job)[task.part]):
            return None
        return prior.find(task.job)

    def _on_progress(self, documents: int, tokens: int) -> None:
        if self._beat is not None:
            if time.monotonic() - self._counted_at > _COUNT_SECONDS and self._task.node.name == passes.SCORES:
                rows = (_scored_rows(batch, n_tokens, nll) for batch, nll, n_tokens in self._scores.under_way())
                self._beat.show_bins(self._counted.bins(rows))
                self._counted_at = time.monotonic()
            self._beat(documents, tokens)
        if self._then is not None and self._scores.all_loaded:
            then, self._then = self._then, None
            then()


def _scored_rows(batch: pa.RecordBatch, n_tokens: np.ndarray, nll: np.ndarray) -> ScoredRows:
    return ScoredRows(batch["file"].to_numpy(), batch["row"].to_numpy(), has_text(batch), n_tokens, nll)


def _others(task: Task, loaded: "Reference") -> list[ModelRecord]:
    """The further references with the tokenizer of the job's, whose parts of the shard are not there."""
    if task.node.name != passes.SCORES:
        return []
    same = {
        found.sha256: found
        for found in further(task.job).values()
        if found.tokenizer_sha256 == loaded.fingerprint.tokenizer_sha256
    }
    parts = {sha256: paths(task.job, found)[task.part] for sha256, found in same.items()}
    return [same[sha256] for sha256, path in parts.items() if path != task.path and not task.storage.exists(path)]


def _score_tokens(task: Task, record: ModelRecord, first: ShardScoring) -> None:
    """Scores the tokens of a shard by a further reference, and writes its part."""
    from scorer.engine.scoring import score

    with task.beat.allow(_LOAD_SECONDS):
        loaded = _load(task, record)
    stride, path = task.job.record.request.scoring.stride, paths(task.job, record)[task.part]
    while True:
        scoring = score(loaded, iter(first.tokens), stride=stride, on_progress=lambda *_: first.beat())
        about: dict[str, Any] = {}
        try:
            with ScoresWriter(task.storage, path, about) as scores:
                for batch, nll, n_tokens, surprisals, _ in scoring:
                    scores.append(batch, n_tokens, nll, surprisals)
                about.update(loaded.provenance())
            return
        except OutOfMemory:
            pass
        finally:
            scoring.close()
        _halve(task, loaded)
