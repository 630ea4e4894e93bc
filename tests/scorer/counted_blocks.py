"""Tokenized blocks made of counted ids, and the inputs of their windows."""

from itertools import pairwise

import numpy as np

from kernels.pack import IGNORED
from scorer.engine.windows import TokenizedBlock, Window
from scorer.tokenizer.backends import Encoded


def block_of(lengths: list[int], bos: int | None = None, first: int = 10) -> TokenizedBlock:
    """Documents whose ids count on from `first`, and each from the last id of the one before."""
    edges = np.cumsum([first, *lengths])
    return TokenizedBlock(Encoded.of([range(a, b) for a, b in pairwise(edges.tolist())]), bos)


def filled(window: Window) -> tuple[list[int], list[int]]:
    """The ids and targets of a window."""
    ids, targets = np.zeros(window.length, np.int64), np.zeros(window.length, np.int64)
    window.block.fill(window, ids, targets, IGNORED)
    return ids.tolist(), targets.tolist()
