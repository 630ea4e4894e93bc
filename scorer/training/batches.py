"""Micro-batches of a training: rows of the tokens in a seeded order, and where documents begin in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import IGNORED


class Batch(NamedTuple):
    """Rows of tokens. A document begins anew in each row, where its last part did not fit into the row before."""

    ids: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64: the next token, or -100 where there is none
    positions: Tensor  # [B, T] int64: of each token in its document, from 0
    ends: Tensor  # [B, T] int64: of each token's document, counted over the rows laid end to end


class Layout(NamedTuple):
    """The shape of all micro-batches of a training, and their form on the way to the device: one int64 vector."""

    rows: int
    sequence: int

    def join(self, ids: NDArray[np.int64], targets: NDArray[np.int64], start: int) -> Tensor:
        """Ids and targets [B, T] as a vector on the host; `start` is the token before each document."""
        begins = ids == start
        begins[:, 0] = True
        here = np.arange(self.sequence)
        positions = here - np.maximum.accumulate(np.where(begins, here, 0), axis=1)
        found = np.append(np.flatnonzero(begins), self.rows * self.sequence)
        ends = np.repeat(found[1:], np.diff(found))
        return torch.from_numpy(np.concatenate((ids.ravel(), targets.ravel(), positions.ravel(), ends)))

    def split(self, vector: Tensor) -> Batch:
        """The batch of a vector, on the vector's device."""
        return Batch(*vector.view(4, self.rows, self.sequence).unbind())


class Batches:
    """The rows that a training reads: all of them in a new seeded order in each pass."""

    def __init__(self, data: NDArray[np.uint16], sequence: int, micro: int, start: int, seed: int) -> None:
        """`data` [N] of documents, each after a token `start`; a row has `sequence` tokens and their targets."""
        self.data, self.sequence, self.start, self.seed = data, sequence, start, seed
        self.rows = (len(data) - 1) // sequence
        self.layout = Layout(micro, sequence)
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def vector(self, first: int) -> Tensor:
        """The micro-batch of rows `first` to `first + micro` of the training, counted over all passes."""
        wanted = np.array([self._row(i) for i in range(first, first + self.layout.rows)])
        rows = self.data[wanted[:, None] * self.sequence + np.arange(self.sequence + 1)].astype(np.int64)
        return self.layout.join(rows[:, :-1], rows[:, 1:], self.start)

    def _row(self, number: int) -> int:
        epoch, at = divmod(number, self.rows)
        if epoch != self._order[0]:
            self._order = epoch, np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.rows)
        return int(self._order[1][at])


def heldout_vectors(run: NDArray[np.uint16], layout: Layout, start: int) -> Iterator[Tensor]:
    """All tokens of held-out documents as micro-batches; ends of documents are no targets, as they are no text."""
    size = layout.rows * layout.sequence
    for first in range(0, len(run) - 1, size):
        part = run[first : first + size + 1].astype(np.int64)
        ids, targets = np.full(size, int(start == 0)), np.full(size, IGNORED)  # filled up with a token that is no start
        ids[: len(part) - 1] = part[:-1]
        targets[: len(part) - 1] = np.where(part[1:] == start, IGNORED, part[1:])
        rows = (layout.rows, layout.sequence)
        yield layout.join(ids.reshape(rows), targets.reshape(rows), start)
