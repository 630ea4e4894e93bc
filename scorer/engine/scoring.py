"""The scoring loop: blocks of documents in, the NLL and the number of scored tokens of each document out.

A thread reads, tokenizes and packs ahead (batch_loader.py), the model runs on its device (executor.py), and the sums
come back a batch later. Memory is bounded by a few blocks' text and a few batches' tokens. The scores depend on nothing
but the documents in their order, the reference, its budget and the stride; not on how documents are cut into blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from scorer.causal_lm.reference import Reference
from scorer.engine.batch_loader import Batch, BatchLoader, Tag
from scorer.engine.executor import Executor, Sums
from scorer.engine.windows import Surprisals
from scorer.tokenizer.backends import Encoded

OnProgress = Callable[[int, int], None]
# Of a block of D documents: tag, nll [D] in nats, n_tokens [D], other measures, and their tokens.
Scores = tuple[Tag, NDArray[np.float64], NDArray[np.int64], Surprisals, Encoded]


def score(
    reference: Reference,
    blocks: Iterable[tuple[list[str] | Encoded, Tag]],
    *,
    on_progress: OnProgress,
    stride: int | None = None,
) -> Scoring[Tag]:
    """Scores blocks of (D texts, or their tokens, and a tag).

    Gives for each, in order, (tag, nll float64 [D] in nats, n_tokens int64 [D], surprisals, tokens). Another model with
    the same tokenizer may score the tokens.

    `nll` is the sum over a document's scored tokens, NaN if it has none; a sum that is not finite is given as it is.
    `stride` is the number of new tokens in each later window of a model with a context limit, by default all but the
    first id of the window.

    `blocks` is iterated in another thread, from now on and some blocks ahead of the scores. A caller that does not
    iterate to the end calls `close`.

    `on_progress(documents, tokens)` gets the counts done so far. It is called in the thread that iterates, after each
    batch, and twice a second while that thread waits for texts or, on a CPU, for a batch that runs in another thread.
    It is called with torch's modes, streams and settings as the caller has them, so it may run other work, another
    scoring or a training, for any time: neither changes the other's results. It may raise to abort.

    Raises BadReference for a stride that does not fit the model; iterating raises OutOfMemory if the device's memory is
    too small for the reference's budget, and what `blocks` raises.
    """
    reference.check_stride(stride)
    return Scoring(reference, blocks, on_progress, stride)


class Scoring(Generic[Tag]):
    """An iterator over the scores of blocks, with counts of what is done. Reading has begun when it is made."""

    def __init__(
        self,
        reference: Reference,
        blocks: Iterable[tuple[list[str] | Encoded, Tag]],
        on_progress: OnProgress,
        stride: int | None,
    ) -> None:
        self.documents = 0
        self.tokens = 0  # scored
        self.batches = 0
        self.window_positions = 0
        self.computed_positions = 0  # padding included
        self._reference = reference
        self._on_progress = on_progress
        self._loader = BatchLoader(reference, blocks, stride)
        self._scores = self._run()

    def __iter__(self) -> Iterator[Scores[Tag]]:
        return self._scores

    def under_way(self) -> list[tuple[Tag, NDArray[np.float64], NDArray[np.int64]]]:
        """The blocks that are not complete, in order: tag, nll [D] with NaN for documents that are not scored yet, and
        n_tokens [D]. To be called in the thread that iterates.
        """
        return [(tag, block.scored(), block.n_tokens) for tag, block in list(self._loader.blocks)]

    @property
    def waste(self) -> float:
        """The share of the computed positions that were padding."""
        return 1 - self.window_positions / max(1, self.computed_positions)

    @property
    def all_loaded(self) -> bool:
        """Whether every text is read, tokenized and packed, so that another scoring's reading may begin."""
        return self._loader.all_loaded

    @property
    def budget(self) -> int:
        """The reference's budget when reading began."""
        return self._loader.budget

    def close(self) -> None:
        """Ends reading and scoring, wherever they are."""
        self._scores.close()
        self._loader.close()

    def _run(self) -> Generator[Scores[Tag], None, None]:
        executor = Executor(self._reference)
        running: deque[tuple[Batch, Callable[[], Sums]]] = deque()
        try:
            while (batch := self._loader.next_batch(self._report)) is not None:
                running.append((batch, executor.submit(batch, self._report)))
                if len(running) > executor.batches_ahead:
                    yield from self._finish(*running.popleft())
            while running:
                yield from self._finish(*running.popleft())
            yield from self._complete_blocks()
            self._report()
        finally:
            self._loader.close()

    def _finish(self, batch: Batch, wait_for_sums: Callable[[], Sums]) -> Iterator[Scores[Tag]]:
        """Waits for a batch, adds its sums to their documents, and gives the blocks that are now complete."""
        for window, sums in zip(batch.windows, wait_for_sums().tolist(), strict=True):
            self.documents += window.block.add(window, *sums)
            self.tokens += window.stop - window.first
            self.window_positions += window.length
        packed = self._reference.model.packed
        self.computed_positions += batch.positions if packed else len(batch.lengths) * int(batch.lengths.max())
        self.batches += 1
        self._loader.release(batch)
        self._report()
        yield from self._complete_blocks()

    def _complete_blocks(self) -> Iterator[Scores[Tag]]:
        """The scores of the first blocks, as far as they are complete."""
        blocks = self._loader.blocks
        while blocks and blocks[0][1].complete:
            tag, block = blocks.popleft()
            self.documents += int((block.n_tokens == 0).sum())
            yield tag, block.scores(), block.n_tokens, block.surprisals(), block.tokens

    def _report(self) -> None:
        self._on_progress(self.documents, self.tokens)
