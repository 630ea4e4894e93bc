"""Scores a few texts at once, token by token, for people who want to look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.causal_lm.reference import Reference, in_memory
from scorer.engine.batch_loader import Slot, lay_out
from scorer.engine.executor import Lane
from scorer.engine.packing import batches
from scorer.engine.windows import Block


@dataclass(frozen=True)
class TextScore:
    """A text's tokens `ids` [N] int32, the last `n_tokens` of them scored, with `nll` [n_tokens] float64 in nats."""

    ids: NDArray[np.int32]
    n_tokens: int
    nll: NDArray[np.float64]


def score_few(reference: Reference, texts: list[str], stride: int | None = None) -> list[TextScore]:
    """The scores of texts that are few enough for one call, each as `score` has it but for rounding.

    Raises BadReference as `score` does, and OutOfMemory.
    """
    reference.check_stride(stride)
    block = Block(reference.tokenizer.encode(texts), reference.bos)
    nll = [np.zeros(count) for count in block.n_tokens]
    lane, slot = Lane(reference, lambda: None), Slot(reference)
    windows = block.cut(reference.context, stride)
    with in_memory(reference):
        for group in batches(windows, reference.budget, reference.model.packed, reference.recurrent):
            batch = lay_out(group, slot, reference, reference.budget)
            found = lane.tokens(batch)
            at = 0
            for window in group:
                scored = found[at + window.first - window.start : at + window.length]
                nll[window.document][window.first : window.stop] = scored
                at += window.length
    return [TextScore(ids, len(part), part) for ids, part in zip(block.tokens, nll, strict=True)]
