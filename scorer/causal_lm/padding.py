"""Converts a pack to rows padded on the right and back, for models that do not read packs as they are."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import Pack, Table


def pad(ids: Tensor, pack: Pack) -> Tensor:
    """The pack's documents as rows: ids [T] -> [S, longest], 0 after the end of each."""
    rows, longest = _shape(pack)
    if rows * longest == pack.tokens:
        return ids.view(rows, longest)
    padded = ids.new_zeros(rows * longest)
    padded[_positions(pack)] = ids
    return padded.view(rows, longest)


def unpad(values: Tensor, pack: Pack) -> Tensor:
    """The values of the pack's tokens: [S, longest, ...] -> [T, ...]."""
    rows, longest = _shape(pack)
    flat = values.flatten(0, 1)
    return flat if rows * longest == pack.tokens else flat.index_select(0, _positions(pack))


def _shape(pack: Pack) -> tuple[int, int]:
    return len(pack.lengths), int(pack.lengths.max())


def _positions(pack: Pack) -> Tensor:
    """The position of each token in the flattened rows, [T]."""

    def make(lengths: NDArray[np.int64]) -> Table:
        starts = np.arange(len(lengths)) * lengths.max()
        before = np.cumsum(lengths) - lengths
        return (np.repeat(starts - before, lengths) + np.arange(lengths.sum())).astype(np.int32)

    return pack.table("positions in rows", make)
