"""Cuts tokenized documents into windows, the spans of targets that a model reads at once, and sums their NLL.

A document is a stream of ids: BOS and its tokens, or its tokens alone if the tokenizer has no BOS. Its targets are
stream[1:]; each is predicted by the ids before it. Knows no model and no batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scorer.tokenizer.backends import Encoded


class Surprisals(NamedTuple):
    """What documents are measured by beside their NLL, float64 [D] each; 0 for one without targets."""

    squares: NDArray[np.float64]  # the sum of the squared NLL of its tokens, nats squared
    largest: NDArray[np.float64]  # the largest NLL of a token, nats
    over: NDArray[np.float64]  # the number of tokens with an NLL over HIGH


HIGH = 8.0  # nats: the NLL of a token that counts as high


class Window(NamedTuple):
    """Targets [start, stop) of a document; those before `first` are context and are not scored."""

    block: TokenizedBlock
    number: int  # among the block's windows
    document: int  # of the block
    start: int
    first: int
    stop: int
    carried: bool = False  # a part that starts from the model's state after the part before
    more: bool = False  # another part starts from the state after this one

    @property
    def length(self) -> int:
        """Positions that the model reads."""
        return self.stop - self.start

    def split(self, size: int) -> tuple[Window, Window | None]:
        """The first `size` positions, all of them scored, and the part after them, None if nothing is left."""
        at = self.start + size
        if at >= self.stop:
            return self, None
        return self._replace(stop=at, more=True), self._replace(start=at, first=at, carried=True)


class TokenizedBlock:
    """Some consecutive documents: their tokens, their windows, and the sums of NLL as they come back.

    `n_tokens` [D] int64 has the number of targets of each document.
    """

    def __init__(self, tokens: Encoded, bos: int | None) -> None:
        self.tokens = tokens
        self.bos = bos
        self.n_tokens: NDArray[np.int64] = tokens.lengths if bos is not None else np.maximum(tokens.lengths - 1, 0)
        self._documents: list[int] = []  # of each window
        self._sums: NDArray[np.float64] = np.empty((0, 4))  # of each window: NLL, squares, largest, over
        self._left = np.zeros(len(tokens), np.int64)  # windows of each document that are not yet scored
        self._left_in_all = 0

    def cut(self, context: int | None, stride: int | None) -> list[Window]:
        """The windows of all documents, in order. `context` and `stride` as in `window_spans`. Call once."""
        windows: list[Window] = []
        for document, targets in enumerate(self.n_tokens.tolist()):
            for start, first, stop in window_spans(targets, context, stride):
                windows.append(Window(self, len(windows), document, start, first, stop))
        self._documents = [window.document for window in windows]
        self._left += np.bincount(np.array(self._documents, np.int64), minlength=len(self._left))
        self._sums = np.zeros((len(windows), 4))
        self._left_in_all = len(windows)
        return windows

    def fill(self, window: Window, ids: NDArray[np.int64], targets: NDArray[np.int64], ignored: int) -> None:
        """Writes a window's inputs and targets, [length] each; a target that is only context becomes `ignored`.

        A window starts with BOS. A window without BOS, or a part that is carried on, starts with the id before its
        first target.
        """
        base = int(self.tokens.starts[window.document]) + (0 if self.bos is not None else 1)
        begin, end = base + window.start, base + window.stop
        ids[0] = self.tokens.ids[begin - 1] if self.bos is None or window.carried else self.bos
        ids[1:] = self.tokens.ids[begin : end - 1]
        targets[:] = self.tokens.ids[begin:end]
        targets[: window.first - window.start] = ignored

    def add(self, window: Window, nll: float, squares: float = 0.0, largest: float = 0.0, over: float = 0.0) -> bool:
        """Adds the sums of a window or of a part of one. Returns whether that completes its document."""
        sums = self._sums[window.number]
        sums[:] = sums[0] + nll, sums[1] + squares, max(sums[2], largest), sums[3] + over
        if window.more:
            return False
        self._left_in_all -= 1
        self._left[window.document] -= 1
        return bool(self._left[window.document] == 0)

    @property
    def complete(self) -> bool:
        """Whether every window is scored."""
        return self._left_in_all == 0

    def scored(self) -> NDArray[np.float64]:
        """As `scores`, of a block that need not be complete: NaN for the documents that are not scored yet."""
        return np.where(self._left == 0, self.scores(), np.nan)

    def scores(self) -> NDArray[np.float64]:
        """The NLL of each document [D] in nats, NaN for one without targets. The block must be complete."""
        nll = np.where(self.n_tokens > 0, 0.0, np.nan)
        # add.at adds one window after the other, in the order of the text, in whichever order their sums came back.
        np.add.at(nll, np.array(self._documents, np.int64), self._sums[:, 0])
        return nll

    def surprisals(self) -> Surprisals:
        """The other measures of each document. The block must be complete."""
        documents = np.array(self._documents, np.int64)
        squares, largest, over = np.zeros((3, len(self.n_tokens)))
        np.add.at(squares, documents, self._sums[:, 1])
        np.maximum.at(largest, documents, self._sums[:, 2])
        np.add.at(over, documents, self._sums[:, 3])
        return Surprisals(squares, largest, over)


def window_spans(targets: int, context: int | None, stride: int | None) -> Iterator[tuple[int, int, int]]:
    """(start, first, stop) of each window of a document with so many targets; each target is scored in exactly one.

    A window holds one id of context and up to `context` - 1 targets, and starts `stride` targets after the one before,
    by default where that one ends. A model without a limit (`context` None) reads all in one window.
    """
    size = targets if context is None else context - 1
    step = size if context is None or stride is None else stride
    start, first = 0, 0
    while first < targets:
        stop = min(start + size, targets)
        yield start, first, stop
        start, first = start + step, stop
