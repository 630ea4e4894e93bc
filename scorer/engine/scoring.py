"""The scoring loop: blocks of documents in, the NLL and the number of scored tokens of each out.

A thread beside reads, tokenizes and packs ahead (feed.py), the model runs on its device (lane.py), and the sums come
back a batch later. Memory is bounded by a few blocks' text and a few batches' tokens. The scores depend on nothing but
the documents in their order, the reference, its budget and the stride: not on how they are cut into blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from scorer.causal_lm.reference import Reference, in_memory
from scorer.engine.batch_loader import Batch, Feed
from scorer.engine.executor import Lane, Sums

OnProgress = Callable[[int, int], None]
Scores = tuple[NDArray[np.float64], NDArray[np.int64]]

_READERS = 2


def score(
    reference: Reference,
    texts: Iterable[list[str]],
    *,
    on_progress: OnProgress,
    stride: int | None = None,
    readers: int = _READERS,
) -> Scoring:
    """For each block of D texts: nll float64 [D] in nats, n_tokens int64 [D].

    `nll` is the sum over a document's scored tokens, NaN where it has none; one that is not finite is left so. `stride`
    is the number of new tokens in each later window of a model with a context limit, by default all but the first id.
    `on_progress(documents, tokens)` is told what is done since the start after each batch, and twice a second while
    texts are read and tokenized or a CPU is at a batch; it may raise to abort. `texts` is iterated in another thread,
    from now on and some blocks ahead of the scores; up to `readers` + 1 blocks are tokenized at the same time, which
    changes no score. Whoever does not iterate to the end calls `close`.

    Raises BadReference for a stride that does not fit the model; iterating raises OutOfMemory where the device's memory
    is too small for the reference's budget.
    """
    reference.check_stride(stride)
    return Scoring(reference, texts, on_progress, stride, readers)


class Scoring:
    """An iterator over the scores of blocks, and the counts of what it has done so far. Reading has begun."""

    def __init__(
        self,
        reference: Reference,
        texts: Iterable[list[str]],
        on_progress: OnProgress,
        stride: int | None,
        readers: int,
    ) -> None:
        self.documents = 0
        self.tokens = 0  # scored
        self.batches = 0
        self.read = 0  # positions of windows
        self.computed = 0  # positions, padding included
        self._reference = reference
        self._on_progress = on_progress
        self._feed = Feed(reference, texts, stride, readers)
        self._scores = self._run(self._feed)

    def __iter__(self) -> Iterator[Scores]:
        return self._scores

    @property
    def waste(self) -> float:
        """The share of the computed positions that were padding."""
        return 1 - self.read / max(1, self.computed)

    @property
    def read_ahead(self) -> bool:
        """Whether all is read, tokenized and packed, so that another's reading may begin."""
        return self._feed.ended

    @property
    def budget(self) -> int:
        """The reference's when reading began."""
        return self._feed.budget

    def close(self) -> None:
        """Ends reading and scoring, wherever they are."""
        self._scores.close()
        self._feed.close()

    def _run(self, feed: Feed) -> Generator[Scores, None, None]:
        lane = Lane(self._reference, self._tell)
        flying: deque[tuple[Batch, Callable[[], Sums]]] = deque()
        try:
            with in_memory(self._reference):
                while (batch := feed.get(self._tell)) is not None:
                    flying.append((batch, lane.start(batch)))
                    if len(flying) > lane.ahead:
                        yield from self._settle(feed, *flying.popleft())
                while flying:
                    yield from self._settle(feed, *flying.popleft())
                yield from self._ended(feed)
            self._tell()
        finally:
            feed.close()

    def _settle(self, feed: Feed, batch: Batch, ask: Callable[[], Sums]) -> Iterator[Scores]:
        """Takes a batch's sums, and gives the blocks that wait for nothing more."""
        sums = ask().tolist()
        for window, nll in zip(batch.windows, sums, strict=True):
            self.documents += window.block.settle(window, nll)
            self.tokens += window.stop - window.first
            self.read += window.length
        packed = self._reference.model.packed
        self.computed += batch.positions if packed else len(batch.lengths) * int(batch.lengths.max())
        self.batches += 1
        feed.release(batch)
        self._tell()
        yield from self._ended(feed)

    def _ended(self, feed: Feed) -> Iterator[Scores]:
        while feed.blocks and not feed.blocks[0].waiting:
            block = feed.blocks.popleft()
            self.documents += int((block.n_tokens == 0).sum())
            yield block.scores()

    def _tell(self) -> None:
        self._on_progress(self.documents, self.tokens)
