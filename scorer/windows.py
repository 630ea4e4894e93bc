"""Cuts a document into windows that a model's context holds, and windows into batches. Knows no tokenizer, no model.

A document is a stream of ids: BOS and its tokens, or its tokens alone where there is no BOS. Its targets are
stream[1:]; the id before each predicts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.nll import IGNORED

_GPU_TOKENS = 65_536
_CPU_TOKENS = (256, 4_096)
_CPU_WORK = 2 * 10**11  # parameters x tokens of a batch: about a second on two cores


@dataclass(frozen=True)
class Window:
    """Targets [start, stop) of a document, of which those before `first` are context only."""

    document: int
    start: int
    first: int
    stop: int

    @property
    def length(self) -> int:
        """Positions the model reads."""
        return self.stop - self.start


def cut(document: int, targets: int, context: int | None, stride: int | None) -> Iterator[Window]:
    """The windows of a document of so many targets; every target is scored in exactly one of them.

    A window holds one id of context and up to `context` - 1 targets, and starts `stride` after the one before (by
    default where that one ends). A model without a limit reads all in one.
    """
    size = targets if context is None else context - 1
    step = size if context is None or stride is None else stride
    start, first = 0, 0
    while first < targets:
        stop = min(start + size, targets)
        yield Window(document, start, first, stop)
        start, first = start + step, stop


def token_budget(on_gpu: bool, parameters: int) -> int:
    """Positions of a batch, padding included, by a fixed rule. On a CPU few enough for a batch to take a second."""
    if on_gpu:
        return _GPU_TOKENS
    low, high = _CPU_TOKENS
    return max(low, min(high, 1 << (_CPU_WORK // max(1, parameters)).bit_length() - 1))


def batches(windows: Sequence[Window], budget: int) -> Iterator[list[int]]:
    """Indices of windows of like length, those of equal length in order; a batch's rows x longest stay in the budget.

    A window longer than the budget is a batch alone.
    """
    batch: list[int] = []
    for index in sorted(range(len(windows)), key=lambda i: windows[i].length):
        if batch and (len(batch) + 1) * windows[index].length > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def rows(
    windows: Sequence[Window], streams: Sequence[NDArray[np.int32]], bos: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inputs and targets [B, T] int64 of a batch, padded on the right with id 0 and target -100.

    A later window starts with BOS; without one, with the id before its first target.
    """
    longest = max(window.length for window in windows)
    ids = np.zeros((len(windows), longest), np.int64)
    targets = np.full((len(windows), longest), IGNORED, np.int64)
    for row, w in enumerate(windows):
        stream = streams[w.document]
        ids[row, : w.length] = stream[w.start : w.stop]
        if bos is not None:
            ids[row, 0] = bos
        targets[row, w.first - w.start : w.length] = stream[w.first + 1 : w.stop + 1]
    return ids, targets
