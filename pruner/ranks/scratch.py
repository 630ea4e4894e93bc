"""Arrays in temporary files, which are read and written at any place without being held in memory."""

import os
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pruner.ranks.parts import RankedRows, Ranking


class ScratchArray:
    """A one-dimensional array in a file that has no name, in a folder. Several threads may use it."""

    def __init__(self, folder: Path, dtype: type[np.generic]) -> None:
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self._size, self._lock = 0, threading.Lock()

    def append(self, values: np.ndarray) -> int:
        """Adds values at the end; returns the position of the first. Raises OSError where the disk is full."""
        with self._lock:
            at = self._size
            self._size += len(values)
        self.write(at, values)
        return at

    def write(self, at: int, values: np.ndarray) -> None:
        """Writes values from a position on. Raises OSError where the disk is full."""
        data = np.ascontiguousarray(values, dtype=self._dtype).view(np.uint8).data
        start = at * self._dtype.itemsize
        while len(data):
            sent = os.pwrite(self._file.fileno(), data, start)
            data, start = data[sent:], start + sent

    def read(self, at: int, size: int) -> np.ndarray:
        """The values at positions [at, at + size), which were written before."""
        values = np.empty(size, dtype=self._dtype)
        data, start = values.view(np.uint8).data, at * self._dtype.itemsize
        while len(data):
            got = os.preadv(self._file.fileno(), [data], start)
            data, start = data[got:], start + got
        return values

    def mapped(self) -> np.ndarray:
        """All values that were appended, mapped from the file: they stay after `close`."""
        shape = (self._size,)
        return np.memmap(self._file, self._dtype, "r", shape=shape) if self._size else np.empty(shape, self._dtype)

    def close(self) -> None:
        """Removes the file."""
        self._file.close()


class _Kept(NamedTuple):
    """Where the rows of a part are: positions in the arrays, None for what is not kept there."""

    size: int
    key: int
    row: int | None
    group: int | None
    tokens: int | None


class KeptRanking:
    """A ranking that is read once; then its keys are in temporary files, up to 24 bytes a document."""

    def __init__(self, ranking: Ranking, folder: Path) -> None:
        self._ranking = ranking
        self._kept: dict[int, _Kept] = {}
        self._key, self._tokens = ScratchArray(folder, np.uint64), ScratchArray(folder, np.int64)
        self._row, self._group = ScratchArray(folder, np.uint32), ScratchArray(folder, np.uint32)

    @property
    def parts(self) -> int:
        """The number of parts."""
        return self._ranking.parts

    @property
    def groups(self) -> int:
        """The number of groups."""
        return self._ranking.groups

    def read(self, part: int) -> RankedRows:
        """The ranked rows of a part."""
        kept = self._kept.get(part)
        if kept is None:
            rows = self._ranking.read(part)
            self._kept[part] = self._keep(rows)
            return rows
        row = self._row.read(kept.row, kept.size).astype(np.int64) if kept.row is not None else np.arange(kept.size)
        group = self._group.read(kept.group, kept.size).astype(np.int64) if kept.group is not None else None
        tokens = self._tokens.read(kept.tokens, kept.size) if kept.tokens is not None else None
        return RankedRows(row, self._key.read(kept.key, kept.size), group, tokens)

    def _keep(self, rows: RankedRows) -> _Kept:
        size = len(rows.row)
        dense = size == 0 or int(rows.row[-1]) == size - 1
        return _Kept(
            size=size,
            key=self._key.append(rows.key),
            row=None if dense else self._row.append(rows.row),
            group=None if rows.group is None else self._group.append(rows.group),
            tokens=None if rows.tokens is None else self._tokens.append(rows.tokens),
        )

    def close(self) -> None:
        """Removes the files."""
        for array in (self._key, self._tokens, self._row, self._group):
            array.close()
