"""A seeded hash of rows, by which documents are drawn the same everywhere, without a stored list."""

import numpy as np


def row_hash(seed: int, part: int | np.ndarray, row: np.ndarray) -> np.ndarray:
    """A uniform hash of each (seed, part, row), uint64 [R]: mix(mix(row) XOR mix(mix(seed) + part)).

    part is one number or int [R], such as shards or files; row int [R]. All numbers are from 0 to 2**64 - 1. Rows of
    one part never have equal hashes.
    """
    key = _mix(_mix(np.array([seed], dtype=np.uint64)) + np.asarray(part).astype(np.uint64))
    return _mix(_mix(row.astype(np.uint64)) ^ key)


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea and Flood 2014, https://doi.org/10.1145/2660193.2660195)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # array arithmetic wraps around, as intended
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
