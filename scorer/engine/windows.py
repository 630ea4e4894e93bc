"""Cuts documents into windows: spans of targets that a model reads at once. Knows no model and no batch.

A document is a stream of ids: BOS and its tokens, or its tokens alone where there is no BOS. Its targets are
stream[1:]; the id before each predicts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scorer.tokenizer.backends import Encoded


class Window(NamedTuple):
    """Targets [start, stop) of a document, of which those before `first` are context only."""

    block: Block
    number: int  # among the block's windows
    document: int  # of the block
    start: int
    first: int
    stop: int
    carried: bool = False  # a part that goes on from the model's state after the one before
    more: bool = False  # another part goes on from this one's

    @property
    def length(self) -> int:
        """Positions the model reads."""
        return self.stop - self.start

    def split(self, size: int) -> tuple[Window, Window | None]:
        """Its first `size` positions, all of them scored, and what goes on from the state after these, if anything."""
        at = self.start + size
        if at >= self.stop:
            return self, None
        return self._replace(stop=at, more=True), self._replace(start=at, first=at, carried=True)


class Block:
    """Some consecutive documents of a shard, tokenized: their targets, their windows, and the sums that come back."""

    def __init__(self, tokens: Encoded, bos: int | None) -> None:
        self.tokens = tokens
        self.bos = bos
        self.n_tokens: NDArray[np.int64] = tokens.lengths if bos is not None else np.maximum(tokens.lengths - 1, 0)
        self.windows: list[int] = []  # the document of each
        self.sums: list[float] = []  # the NLL of each window, as it comes back
        self.left = np.zeros(len(tokens), np.int64)  # windows that are still to come back, for each document
        self.waiting = 0  # the same of the whole block

    def cut(self, context: int | None, stride: int | None) -> Iterator[Window]:
        """The windows of all documents, in order."""
        windows: list[Window] = []
        for document, targets in enumerate(self.n_tokens.tolist()):
            for start, first, stop in cut(targets, context, stride):
                windows.append(Window(self, len(windows), document, start, first, stop))
        self.windows = [window.document for window in windows]
        self.left += np.bincount(np.array(self.windows, np.int64), minlength=len(self.left))
        self.sums = [0.0] * len(windows)
        self.waiting = len(windows)
        return iter(windows)

    def fill(self, window: Window, ids: NDArray[np.int64], targets: NDArray[np.int64], ignored: int) -> None:
        """Writes a window's inputs and targets, [length] each; a target that is context only becomes `ignored`.

        A later window starts with BOS; one without, or one that is carried on, with the id before its first target.
        """
        base = int(self.tokens.starts[window.document]) + (0 if self.bos is not None else 1)
        begin, end = base + window.start, base + window.stop
        ids[0] = self.tokens.ids[begin - 1] if self.bos is None or window.carried else self.bos
        ids[1:] = self.tokens.ids[begin : end - 1]
        targets[:] = self.tokens.ids[begin:end]
        targets[: window.first - window.start] = ignored

    def settle(self, window: Window, nll: float) -> int:
        """Takes the NLL of a window or of a part of one; 1 if it was the last of its document, else 0."""
        self.sums[window.number] += nll
        if window.more:
            return 0
        self.waiting -= 1
        self.left[window.document] -= 1
        return int(self.left[window.document] == 0)

    def scores(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """NLL (NaN where nothing is scored) and scored tokens of each document, when nothing is waited for."""
        nll = np.where(self.n_tokens > 0, 0.0, np.nan)
        np.add.at(nll, np.array(self.windows, np.int64), np.array(self.sums))  # one after the other, in their order
        return nll, self.n_tokens


def cut(targets: int, context: int | None, stride: int | None) -> Iterator[tuple[int, int, int]]:
    """(start, first, stop) of the windows of a document of so many targets; each target is scored in exactly one.

    A window holds one id of context and up to `context` - 1 targets, and starts `stride` after the one before (by
    default where that one ends). A model without a limit reads all in one.
    """
    size = targets if context is None else context - 1
    step = size if context is None or stride is None else stride
    start, first = 0, 0
    while first < targets:
        stop = min(start + size, targets)
        yield start, first, stop
        start, first = start + step, stop
