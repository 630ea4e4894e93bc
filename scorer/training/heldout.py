"""How well a model in training predicts documents that it does not learn from, in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.nll import token_nll
from scorer.training.batches import Layout, heldout_vectors
from scorer.training.micro_step import deterministic, run_hidden
from scorer.training.presets import TrainingModel


class HeldOut(NamedTuple):
    """Held-out documents: a run of tokens with `start` before each, and their sizes in bytes."""

    tokens: NDArray[np.uint16]
    sizes: list[int]
    start: int

    def sample(self, tokens: int) -> HeldOut:
        """The first documents, of about so many tokens together, at least one."""
        starts = np.flatnonzero(self.tokens == self.start)
        count = max(1, int((starts <= tokens).sum()) - 1)
        end = starts[count] if count < len(starts) else len(self.tokens)
        return HeldOut(self.tokens[:end], self.sizes[:count], self.start)

    def bits_per_byte(
        self, model: TrainingModel, layout: Layout, device: str, beat: Callable[[], None]
    ) -> float | None:
        """The loss, in rows as in training; None where there is no text. Calls `beat` between two micro-batches."""
        if not sum(self.sizes):
            return None
        total = 0.0
        for vector in heldout_vectors(self.tokens, layout, self.start):
            batch = layout.split(vector.to(device))
            with torch.no_grad(), deterministic(device):
                hidden = run_hidden(model.hidden, batch)
                total += token_nll(hidden, model.head, batch.targets.flatten()).double().sum().item()
            beat()
        return total / math.log(2) / sum(self.sizes)
