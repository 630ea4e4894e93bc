"""Ascending sums, a sample of each block of them, and searches that read one block each."""

from typing import Any

import numpy as np

from pruner.select import key_limits
from pruner.select.stored_array import prefetch

_AROUND = 64  # sums beside a place that is searched for, which are looked at too


def sample(sums: np.ndarray) -> np.ndarray:
    """Each so many-th sum, as many as blocks: int64 [ceil(N / BLOCK)]. sums int64 [N], which is read in pieces."""
    firsts = range(0, len(sums), key_limits.BLOCK)
    return np.array([np.asarray(sums[first : first + key_limits.BLOCK])[0] for first in firsts], dtype=np.int64)


def prefetch_searches(sums: np.ndarray, samples: np.ndarray, values: np.ndarray) -> None:
    """Begins to read what searches for some values look at, int64 [R]."""
    after = np.searchsorted(samples, values) * key_limits.BLOCK
    starts = np.clip(after - key_limits.BLOCK - _AROUND, 0, len(sums))
    prefetch(sums, starts, np.clip(after + _AROUND, 0, len(sums)))


class SampledSums:
    """The sums [start, stop) of an array int64 [N], of which `samples` are those of `sample`."""

    def __init__(self, sums: np.ndarray, samples: np.ndarray, start: int, stop: int) -> None:
        self._sums, self._samples = sums, samples
        self._start, self._stop = start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, at: Any) -> Any:
        """A sum, or the part that a slice without a step names."""
        if isinstance(at, slice):
            start, stop, _ = at.indices(len(self))
            return SampledSums(self._sums, self._samples, self._start + start, self._start + max(start, stop))
        return self._sums[self._start + at if at >= 0 else self._stop + at]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._sums[self._start : self._stop], dtype)

    def searchsorted(self, value: Any, side: Any = "left", sorter: None = None) -> int:
        """As numpy.searchsorted, which calls it, for one value."""
        after = int(self._samples.searchsorted(value, side)) * key_limits.BLOCK
        start = min(max(self._start, after - key_limits.BLOCK), self._stop)
        stop = max(start, min(self._stop, after))
        return start - self._start + int(self._sums[start:stop].searchsorted(value, side))
