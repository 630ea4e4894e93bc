"""The documents of a pack cut into blocks of tokens: a table with one program of a kernel for each block."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import Pack, Table


def blocks_of(pack: Pack, size: int) -> Tensor:
    """`document_blocks` of the pack on its device: [n, 4] int32."""
    return pack.table(f"document blocks {size}", partial(document_blocks, size=size))


def document_blocks(lengths: NDArray[np.int64], size: int) -> Table:
    """Blocks of `size` tokens, counted from each document's start; the last of a document may be short.

    [n, 4]: the document's first token in the pack, its length, the block's first token in the document, the document's
    number. The longest documents come first, each from its last block, which attends to most, to its first, so that no
    long program starts late. A document's blocks are neighbours, so data that they share is in the cache.
    """
    starts = np.cumsum(lengths) - lengths
    longest = np.argsort(-lengths, kind="stable")
    counts = -(-lengths[longest] // size)
    document = np.repeat(longest, counts)
    number = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(document))
    return np.stack((starts[document], lengths[document], number * size, document), axis=1).astype(np.int32)
