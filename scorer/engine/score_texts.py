"""Scores a few texts at once, token by token, for people who want to look at them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.causal_lm.reference import Reference
from scorer.engine.batch_loader import BatchBuffer, lay_out
from scorer.engine.executor import Executor
from scorer.engine.packing import batches
from scorer.engine.windows import TokenizedBlock

_EXP_MAX = 709.0  # no float64 holds exp of more


@dataclass(frozen=True)
class TextScore:
    """A text's token ids [N] int32; the last `n_tokens` of them are scored, `nll` [n_tokens] float64 in nats."""

    ids: NDArray[np.int32]
    n_tokens: int
    nll: NDArray[np.float64]

    @property
    def total(self) -> float | None:
        """The sum of the NLL, or None where no token is scored or the sum is not finite."""
        total = float(self.nll.sum())
        return total if self.n_tokens and math.isfinite(total) else None

    @property
    def perplexity(self) -> float | None:
        """exp(total / n_tokens), or None where there is no total or no float64 holds it."""
        if self.total is None or self.total / self.n_tokens > _EXP_MAX:
            return None
        return math.exp(self.total / self.n_tokens)

    @property
    def token_nll(self) -> list[float | None]:
        """The NLL of each token; None for one that is context only, and where it is not finite."""
        unscored: list[float | None] = [None] * (len(self.ids) - self.n_tokens)
        return unscored + [value if math.isfinite(value) else None for value in self.nll.tolist()]


def score_texts(reference: Reference, texts: list[str], stride: int | None = None) -> list[TextScore]:
    """The scores of texts that are few enough for one call; each is that of `score` except for rounding.

    Raises BadReference for a stride that does not fit the model, and OutOfMemory.
    """
    reference.check_stride(stride)
    block = TokenizedBlock(reference.tokenizer.encode(texts), reference.bos)
    nll = [np.zeros(count) for count in block.n_tokens]
    windows = block.cut(reference.context, stride)
    executor, buffer = Executor(reference), BatchBuffer(reference)
    for group in batches(windows, reference.budget, reference.model.packed, reference.recurrent):
        values = executor.position_nll(lay_out(group, buffer, reference, reference.budget))
        at = 0
        for window in group:
            scored = values[at + window.first - window.start : at + window.length]
            nll[window.document][window.first : window.stop] = scored
            at += window.length
    return [TextScore(ids, len(part), part) for ids, part in zip(block.tokens, nll, strict=True)]
