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


def limits_of_runs(
    key: np.ndarray, limits: np.ndarray, starts: np.ndarray, stops: np.ndarray
) -> tuple[float, float] | None:
    """The lowest and the highest key of some runs [start, stop) together, None for no key; `limits` of all blocks.

    starts and stops int64 [R]: the runs ascend and do not overlap. Keys of blocks that a run begins or ends in are read
    only where the block's limits go beyond those of all whole blocks: of few runs, if they are long.
    """
    first, last = -(-starts // BLOCK), stops // BLOCK
    found = [(np.inf, -np.inf), *_limits_of_whole(limits, first[first < last], last[first < last])]
    low, high = joined_limits(found)
    head = np.minimum(first * BLOCK, stops)
    starts, stops = np.concatenate([starts, np.maximum(head, last * BLOCK)]), np.concatenate([head, stops])
    starts, stops = starts[starts < stops], stops[starts < stops]
    block = np.asarray(limits[starts // BLOCK])
    beyond = ~((block[:, 0] >= low) & (block[:, 1] <= high))  # NaN too
    prefetch(key, starts[beyond], stops[beyond])
    found += [limits_of(key[start:stop]) for start, stop in zip(starts[beyond], stops[beyond], strict=True)]
    return joined_limits(found) if len(found) > 1 else None


def _limits_of_whole(limits: np.ndarray, first: np.ndarray, last: np.ndarray) -> list[tuple[float, float]]:
    """The lowest and the highest of blocks [first, last) of all runs, int64 [R]; [] without runs."""
    if not len(first):
        return []
    edges = np.stack([first, last], axis=1).ravel()
    edges = edges[:-1] if edges[-1] == len(limits) else edges
    low = np.minimum.reduceat(limits[:, 0], edges)[::2].min()
    high = np.maximum.reduceat(limits[:, 1], edges)[::2].max()
    return [(float(low), float(high))]


def joined_limits(found: list[tuple[float, float]]) -> tuple[float, float]:
    """The lowest and the highest of several limits, NaN where one is."""
    low, high = np.array(found).T
    return float(low.min()), float(high.max())
