"""Deterministic train split: a seeded hash of (shard, row) decides whether a document trains the reference."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """A train split: `fraction` of the documents, drawn with `seed`."""

    seed: int
    fraction: float


def in_split(seed: int, fraction: float, shard_index: int, first_row: int, rows: int) -> np.ndarray:
    """Whether rows [first_row, first_row + rows) of a shard are in the split, bool [rows].

    A row is in it with probability `fraction`, by a hash of (seed, shard, row in the shard) alone, so that training and
    selecting agree without a stored list. 0 <= seed < 2**64.
    """
    key = _mix(_mix(np.array([seed], dtype=np.uint64)) + np.uint64(shard_index))
    numbers = np.arange(first_row, first_row + rows, dtype=np.uint64)
    uniform = (_mix(_mix(numbers) ^ key) >> np.uint64(11)) * 2.0**-53  # [0, 1)
    return np.asarray(uniform < fraction)


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # array arithmetic wraps around, as intended
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
