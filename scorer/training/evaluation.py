"""Texts on which proxies are measured: held-out documents, and answers after their questions, as rows of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.nll import token_nll
from kernels.pack import IGNORED
from scorer.training.batches import Layout
from scorer.training.micro_step import deterministic, run_hidden
from scorer.training.presets import TrainingModel


class Text(NamedTuple):
    """A document with its start token, whose NLL is that of all its tokens; or of the last `scored` ones only."""

    tokens: NDArray[np.uint16]  # [N], N >= 2
    scored: int


class EvaluationRows:
    """Texts in rows of `sequence` tokens, as in training: documents in a row do not see each other.

    A text that is longer than a row is read in several, each without what came before; of a question only as much as
    the row of its answer has place for.
    """

    def __init__(self, texts: Sequence[Text], layout: Layout, start: int) -> None:
        """`layout`: the rows that are read at a time. `start`: the token before each document."""
        self.texts = len(texts)
        self._layout, self._start = layout, start
        sequence = layout.sequence
        rows = [self._new_row()]
        used = 0
        for number, text in enumerate(texts):
            for first, last in self._windows(text):
                size = last - first
                if used + size > sequence or (used and first):  # without its start token it would go on the text before
                    rows.append(self._new_row())
                    used = 0
                row, place = rows[-1], slice(used, used + size)
                row[0][place] = text.tokens[first:last]
                scored = np.arange(first + 1, last + 1) >= len(text.tokens) - text.scored
                row[1][place] = np.where(scored, text.tokens[first + 1 : last + 1].astype(np.int64), IGNORED)
                row[2][place] = number
                used += size
        rows += [self._new_row() for _ in range(-len(rows) % layout.rows)]
        self._ids, self._targets, self._text = (np.stack(column) for column in zip(*rows, strict=True))

    def nll(self, model: TrainingModel, device: str, beat: Callable[[], None]) -> NDArray[np.float64]:
        """The NLL of each text in nats, float64 [texts]. Calls `beat` between two batches."""
        total = np.zeros(self.texts)
        for first in range(0, len(self._ids), self._layout.rows):
            here = slice(first, first + self._layout.rows)
            ids, targets, text = self._ids[here], self._targets[here], self._text[here]
            batch = self._layout.split(self._layout.join(ids, targets, self._start).to(device))
            with torch.no_grad(), deterministic(device):
                found = token_nll(run_hidden(model.hidden, batch), model.head, batch.targets.flatten()).cpu().numpy()
            scored = targets.ravel() != IGNORED
            total += np.bincount(text.ravel()[scored], found[scored].astype(np.float64), self.texts)
            beat()
        return total

    def _new_row(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        size = self._layout.sequence
        empty = np.full(size, int(self._start == 0))  # filled up with a token that is no start
        return empty, np.full(size, IGNORED), np.zeros(size, np.int64)

    def _windows(self, text: Text) -> list[tuple[int, int]]:
        """The ranges of tokens that are read, each of at most a row; its last token's target is the one after it."""
        end, sequence = len(text.tokens) - 1, self._layout.sequence
        start = max(0, end - max(sequence, text.scored))
        return [(first, min(first + sequence, end)) for first in range(start, end, sequence)]
