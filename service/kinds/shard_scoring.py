"""One shard of a job from its rows to its score file: reading may begin before the shard is anybody's."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pruner.corpus import plan as plans
from pruner.corpus.plan import Plan, Shard
from pruner.corpus.sandbox import read_shard
from pruner.corpus.shard_reader import Block
from pruner.tables.shard_scores import ShardScoresWriter
from scorer.errors import OutOfMemory
from service.jobs.steps import score_key
from service.kinds.model_loader import References
from service.store.workspace import JobRecord, PlanRecord, ReferenceRecord, Workspace

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Reference

log = logging.getLogger("winnow.shards")


class Beat(Protocol):
    """How a stage says that it goes on. Both may raise, to end the stage."""

    def __call__(self, documents: int, tokens: int) -> None:
        """So much of the task is done."""

    def blocking(self) -> AbstractContextManager[None]:
        """Says so by itself around a part that cannot."""


class Begun:
    """A shard whose reading has begun, in a thread beside; `run` scores and writes it.

    Beginning needs no lease: nothing is written, and it may be closed at any time.
    """

    def __init__(self, workspace: Workspace, record: JobRecord, index: int, loaded: "Reference") -> None:
        """Raises FileNotFoundError where the job's plan is not there any more."""
        from scorer.engine.scoring import score as score_blocks

        self.loaded = loaded
        self._workspace, self._corpus, self._roots = workspace, record.request.corpus, record.access.roots
        self._closed = False
        self._made, self._shard, self._path = shard_of(workspace, record, index)
        self._beat: Beat | None = None
        self._then: Callable[[], None] | None = None
        self._scores = score_blocks(
            loaded, self._blocks(), stride=record.request.scoring.stride, on_progress=self._on_progress
        )

    @property
    def stale(self) -> bool:
        """Whether the reference's budget has become another since."""
        return self._scores.budget != self.loaded.budget

    def close(self) -> None:
        """Ends the reading."""
        self._closed = True
        self._scores.close()

    def run(self, beat: Beat, then: Callable[[], None] | None) -> bool:
        """Scores the shard and writes it, all of it with one budget; False where the device's memory is too small.

        `then` is called once when all is read, while the last batches run.
        """
        self._beat, self._then = beat, then
        about: dict[str, Any] = {}
        try:
            with ShardScoresWriter(self._workspace.storage, self._path, about) as writer:
                for (block, there), nll, tokens in self._scores:
                    writer.append(block, *_spread(there, tokens, nll))
                about.update(self.loaded.provenance())  # as it is in the end: a tokenizer may have been left
        except OutOfMemory:
            return False
        done = self._scores
        log.info("%s: %d tokens in %d batches, %.2f %% waste", self._path, done.tokens, done.batches, 100 * done.waste)
        return True

    def _blocks(self) -> Iterator[tuple[list[str], tuple[Block, Any]]]:
        for block in read_shard(self._made, self._shard, self._corpus, self._roots, self._end_if_closed):
            there = [text is not None for text in block.texts]
            given = [text for text in block.texts if text is not None]
            block.texts = [None] * block.rows  # only the scores are waited for
            yield given, (block, np.array(there, dtype=bool))

    def _end_if_closed(self) -> None:
        """Ends a reading that waits for what nobody wants any more."""
        if self._closed:
            raise InterruptedError

    def _on_progress(self, documents: int, tokens: int) -> None:
        if self._beat is not None:
            self._beat(documents, tokens)
        if self._then is not None and self._scores.all_loaded:
            then, self._then = self._then, None
            then()


def shard_of(workspace: Workspace, record: JobRecord, index: int) -> tuple[Plan, Shard, str]:
    """A job's plan, a shard of it, and the path of the shard's scores."""
    made = plans.read_plan(workspace.storage, workspace.path(record.id, "plan.parquet"))
    shard = made.shards[index]
    key = score_key(record, reference_of(workspace, record))
    return made, shard, workspace.score_path(key, plans.shard_digest(made, shard, record.request.corpus))


def reference_of(workspace: Workspace, record: JobRecord) -> ReferenceRecord:
    """The reference of a planned job. Raises FileNotFoundError where it is no longer there."""
    reference = workspace.reference(plan_of(workspace, record))
    if reference is None:
        raise FileNotFoundError("the reference that the job trained is no longer in the workspace")
    return reference


def load(workspace: Workspace, record: JobRecord, references: References) -> "Reference":
    """The same, loaded. Raises BadReference too."""
    return references.get(reference_of(workspace, record), record.request.scoring.dtype)


def plan_of(workspace: Workspace, record: JobRecord) -> PlanRecord:
    """What planning found. Raises FileNotFoundError if it has not ended."""
    planned = workspace.plan_record(record.id)
    if planned is None:
        raise FileNotFoundError("the job's plan is no longer in the workspace")
    return planned


def _spread(there: Any, tokens: Any, nll: Any) -> tuple[Any, Any]:
    """Scores of a block's texts [D] as columns of its rows [R]: 0 tokens and NaN where a row has no text (`there`)."""
    row_tokens, row_nll = np.zeros(len(there), np.int64), np.full(len(there), np.nan)
    row_tokens[there], row_nll[there] = tokens, nll
    return row_tokens, row_nll
