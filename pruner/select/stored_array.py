"""Arrays in .npy files, of which only what is asked for is read: mapped, or a piece of a file in a storage."""

import copy
import math
import mmap
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pruner.tables.storage import Storage

_BLOCK_BYTES = 1 << 20  # read at a time to look single values up
_BLOCKS = 64  # that a process keeps


def map_array(path: Path) -> np.ndarray:
    """An array mapped from a local file. Its `base` is the mapping. Raises FileNotFoundError."""
    with path.open("rb") as file:
        shape, dtype = _read_header(file, str(path))
        if not math.prod(shape):
            return np.empty(shape, dtype)
        start = file.tell()
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.ndarray(shape, dtype, data, start)


def _mapping(array: "np.ndarray | StoredArray") -> mmap.mmap | None:
    base = array.base if isinstance(array, np.ndarray) else None
    return base if isinstance(base, mmap.mmap) else None


def read_at_random(array: np.ndarray) -> None:
    """Says that values of a mapped array are read here and there: the system reads a missing page without others."""
    mapping = _mapping(array)
    if mapping is not None:
        mapping.madvise(mmap.MADV_RANDOM)


def prefetch(array: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> None:
    """Begins to read values [start, stop) of a mapped array from the disk: all at once, not one page after the other.

    starts and stops int64 [R].
    """
    mapping = _mapping(array)
    if mapping is None:
        return
    data = len(mapping) - array.nbytes
    first = (data + starts * array.itemsize) // mmap.PAGESIZE * mmap.PAGESIZE
    size, some = data + stops * array.itemsize - first, stops > starts
    for at, length in zip(first[some].tolist(), size[some].tolist(), strict=True):
        mapping.madvise(mmap.MADV_WILLNEED, at, length)


def values_at(array: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The values at some positions of a mapped or stored array, [R]. at int64 [R]."""
    prefetch(array, at, at + 1)
    return np.asarray(array[at] if isinstance(array, np.ndarray) else [array[one] for one in at.tolist()], array.dtype)


def release(array: np.ndarray) -> None:
    """Takes the pages of a mapped array that were read out of this process; they stay in the system's cache."""
    mapping = _mapping(array)
    if mapping is not None:
        mapping.madvise(mmap.MADV_DONTNEED)


def _read_header(file: BinaryIO, path: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"{path}: is a .npy file of version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype


class StoredArray:
    """Values [start, stop) of an array in a file. A slice reads nothing until NumPy makes an array of it.

    An array of several dimensions is read as one of all its values in their order. Methods raise FileNotFoundError.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        with storage.open(path) as file:
            shape, self.dtype = _read_header(file, path)
            self._data = file.tell()
        self._start, self._stop = 0, math.prod(shape)

    def __len__(self) -> int:
        return int(self._stop - self._start)

    def __getitem__(self, at: Any) -> Any:
        """A value, or the part of the array that a slice without a step names."""
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                raise ValueError("a slice of a stored array has no step")
            part = copy.copy(self)
            part._start, part._stop = self._start + start, self._start + max(start, stop)
            return part
        number = int(at) + len(self) if at < 0 else int(at)
        if not 0 <= number < len(self):
            raise IndexError(at)
        place = self._start + number
        size = _BLOCK_BYTES // self.dtype.itemsize
        block = _block(self._storage, self._path, self._data + place // size * size * self.dtype.itemsize)
        return np.frombuffer(block, self.dtype, 1, place % size * self.dtype.itemsize)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(0, len(self)), dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """The values [start, stop), fewer at the end of the array."""
        first, last = (self._data + (self._start + n) * self.dtype.itemsize for n in (start, min(stop, len(self))))
        data = self._storage.read_slice(self._path, first, last)
        if len(data) != last - first:
            raise EOFError(f"{self._path}: ends {last - first - len(data)} bytes early")
        return np.frombuffer(data, self.dtype)

    def searchsorted(self, value: Any, side: str = "left", sorter: None = None) -> int:
        """As numpy.searchsorted, which calls it, for one value."""
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            here = self[middle]
            if here < value or (side == "right" and here == value):
                low = middle + 1
            else:
                high = middle
        return low


@lru_cache(maxsize=_BLOCKS)  # the arrays of an index never change
def _block(storage: Storage, path: str, start: int) -> bytes:
    return storage.read_slice(path, start, start + _BLOCK_BYTES)
