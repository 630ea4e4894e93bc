"""The lowest and the highest key of runs of ranks, from those of blocks: a run of any length reads two blocks."""

import numpy as np

from pruner.select.stored_array import prefetch

BLOCK = 1 << 11  # 0.008 bytes a key


def block_count(size: int) -> int:
    """The number of blocks of so many values."""
    return -(-size // BLOCK)


def block_limits(key: np.ndarray) -> np.ndarray:
    """The lowest and the highest of each BLOCK keys, float64 [blocks, 2], NaN where one is. key float64 [N]."""
    limits = np.empty((block_count(len(key)), 2))
    for number in range(len(limits)):
        limits[number] = limits_of(key[number * BLOCK : (number + 1) * BLOCK])
    return limits


def limits_of(key: np.ndarray) -> tuple[float, float]:
    """The lowest and the highest of some keys, of which there is one at least."""
    values = np.asarray(key)
    return float(values.min()), float(values.max())


def run_limits(key: np.ndarray, limits: np.ndarray, start: int, stop: int) -> tuple[float, float]:
    """The lowest and the highest of keys [start, stop), of which there is one at least; `limits` of all blocks."""
    first, last = -(-start // BLOCK), stop // BLOCK
    if first >= last:
        return limits_of(key[start:stop])
    ends = [key[start : first * BLOCK], limits[first:last].ravel(), key[last * BLOCK : stop]]
    return limits_of(np.concatenate(ends))


def prefetch_runs(key: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
    """Begins to read what `run_limits` reads of the keys for runs [start, stop), int64 [R] each."""
    first, last = -(-starts // BLOCK) * BLOCK, stops // BLOCK * BLOCK
    prefetch(key, starts, np.where(first < last, first, stops))
    prefetch(key, np.where(first < last, last, stops), stops)
