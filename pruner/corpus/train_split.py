"""Deterministic train split: a seeded hash of (shard, row) decides whether a document trains the reference."""

from typing import NamedTuple

import numpy as np

from pruner.corpus.row_hash import row_hash


class Split(NamedTuple):
    """A train split: `fraction` of the documents, drawn with `seed`."""

    seed: int
    fraction: float


def in_split(seed: int, fraction: float, shard_index: int, first_row: int, rows: int) -> np.ndarray:
    """Whether rows [first_row, first_row + rows) of a shard are in the split, bool [rows].

    A row is in it with probability `fraction`, by a hash of (seed, shard, row in the shard) alone, so that training and
    selecting agree without a stored list. 0 <= seed < 2**64.
    """
    numbers = np.arange(first_row, first_row + rows, dtype=np.uint64)
    uniform = (row_hash(seed, shard_index, numbers) >> np.uint64(11)) * 2.0**-53  # [0, 1)
    return np.asarray(uniform < fraction)
