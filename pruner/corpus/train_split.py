"""Deterministic train split: a seeded hash of (file, row) decides whether a document trains the reference.

The row of a file is known where footers count rows, and in whole files. Of a large text file each shard reads a range
of bytes, and the lines before are not counted: there the hash takes the row within the range, and where that starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pruner.corpus.row_hash import row_hash

if TYPE_CHECKING:
    from pruner.corpus.plan import Plan


class Split(NamedTuple):
    """A train split: `fraction` of the documents, drawn with `seed`."""

    seed: int
    fraction: float


class ShardRows(NamedTuple):
    """Where the rows of a shard lie: the index of its first file, and the shard's first row in it.

    If that is unknown, `first_row` is 0 and `start` the first byte of the shard's range, else 0.
    """

    file: int
    first_row: int = 0
    start: int = 0

    @classmethod
    def of(cls, plan: Plan, shard: int) -> ShardRows:
        """Of the shard with this number."""
        found, first_row = plan.shards[shard], int(plan.first_rows[shard])
        return cls(found.file, first_row) if first_row >= 0 else cls(found.file, start=found.start)


def in_split(split: Split, shard: ShardRows, file: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Whether rows of a shard are in the split, bool [R]; file and row int [R] count from its first ones.

    A row is in it with the probability `fraction`, by a hash of the seed and its place alone, so that training and
    selecting agree without a stored list, however files are gathered to shards. 0 <= seed < 2**64.
    """
    seed = split.seed
    if shard.start:
        seed = int(row_hash(seed, shard.file, np.array([shard.start]))[0])
    uniform = (row_hash(seed, shard.file + file, shard.first_row + row) >> np.uint64(11)) * 2.0**-53  # [0, 1)
    return np.asarray(uniform < split.fraction)
