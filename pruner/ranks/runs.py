"""Sorts the rows of a ranking through temporary files: a sorted run for each part, and pieces of all runs in order."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pruner.ranks.parts import RankedRows, Ranking, Workers
from pruner.ranks.scratch import ScratchArray

_PIECE = 1 << 20  # rows that are sorted at a time, about
_STEP = 1 << 10  # of the sorted rows of a part, each so many-th is a sample


class _Run(NamedTuple):
    """The sorted rows of a part: `size` of them from the position `at` on, and samples of them."""

    at: int
    size: int
    group: np.ndarray | None  # int64, of the samples
    key: np.ndarray  # uint64, of the samples


class Slice(NamedTuple):
    """Positions [at, at + size) of the temporary arrays: rows of one part, in their order."""

    at: int
    size: int


class Piece(NamedTuple):
    """Rows that follow each other in the order of all rows, from rank `first` on, as slices of runs.

    `order` int64 [rows] sorts the rows of all slices; None where they are in order already.
    """

    first: int
    slices: list[Slice]
    order: np.ndarray | None

    @property
    def size(self) -> int:
        """The number of rows."""
        return sum(one.size for one in self.slices)


class SortedRuns:
    """The rows of a ranking, or those of a mask, by (group, key, part, row), with columns of their values."""

    def __init__(
        self,
        ranking: Ranking,
        folder: Path,
        workers: Workers,
        *,
        mask: Callable[[RankedRows, int], np.ndarray] | None = None,
        by_key: "SortedRuns | None" = None,
        inside: bool = True,
        columns: Sequence[type[np.generic]] = (),
        values: Callable[[RankedRows, int], Sequence[np.ndarray]] = lambda _rows, _part: (),
    ) -> None:
        """Reads the ranking once. `mask` gives bool [R] of the rows of a part; `inside` sorts by group first.

        `by_key` are the same rows sorted without groups, if they were: their keys are not sorted again. `values` gives
        the columns of the rows of a part, [R] each. Takes 12 bytes of `folder` a row, 4 for groups, and the columns.
        """
        self._ranking, self._mask, self._inside, self._values = ranking, mask, inside, values
        self._by_key = by_key
        self._key, self._group = ScratchArray(folder, np.uint64), ScratchArray(folder, np.uint32)
        self._number = ScratchArray(folder, np.uint32)
        self._columns = [ScratchArray(folder, dtype) for dtype in columns]
        try:
            self._runs = list(workers.run(self._write, ranking.parts))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Removes the temporary files."""
        for array in (self._key, self._group, self._number, *self._columns):
            array.close()

    @property
    def size(self) -> int:
        """The number of rows."""
        return sum(run.size for run in self._runs)

    def run(self, part: int) -> tuple[Slice, np.ndarray]:
        """Where the rows of a part are, and their numbers among the ranked rows of the part, int64 [size]."""
        run = self._runs[part]
        return Slice(run.at, run.size), self._number.read(run.at, run.size).astype(np.int64)

    def column(self, number: int, piece: Piece) -> np.ndarray:
        """The values of a column of the rows of a piece, in their order, [size]."""
        values = np.concatenate([self._columns[number].read(*one) for one in piece.slices])
        return values if piece.order is None else values[piece.order]

    @staticmethod
    def scatter(array: ScratchArray, piece: Piece, values: np.ndarray) -> None:
        """Writes values of the rows of a piece, given in their order, to where the rows are in the runs."""
        if piece.order is not None:
            ordered, values = values, np.empty_like(values)
            values[piece.order] = ordered
        done = 0
        for at, size in piece.slices:
            array.write(at, values[done : done + size])
            done += size

    def pieces(self, workers: Workers) -> Iterator[Piece]:
        """All rows in their order."""
        bounds = self._bounds()
        firsts = np.cumsum([0, *(sum(one.size for one in slices) for slices, _ in bounds)]).tolist()

        def sort(number: int) -> Piece:
            slices, equal = bounds[number]
            return Piece(firsts[number], slices, None if equal else self._order(slices))

        return workers.run(sort, len(bounds))

    def _write(self, part: int) -> _Run:
        rows = self._ranking.read(part)
        number = self._ordered(rows, part)
        key = rows.key[number]
        at = self._key.append(key)
        self._number.write(at, number)
        for array, values in zip(self._columns, self._values(rows, part), strict=True):
            array.write(at, values[number])
        group = rows.group[number] if self._inside and rows.group is not None else None
        if group is not None:
            self._group.write(at, group)
        return _Run(at, len(key), None if group is None else group[::_STEP].copy(), key[::_STEP].copy())

    def _ordered(self, rows: RankedRows, part: int) -> np.ndarray:
        """The numbers of the rows of a part in their order, int64."""
        if self._by_key is not None:
            _, number = self._by_key.run(part)
        else:
            number = np.arange(len(rows.row)) if self._mask is None else np.flatnonzero(self._mask(rows, part))
            number = number[np.argsort(rows.key[number], kind="stable")]
        if not self._inside or rows.group is None:
            return number
        return np.asarray(number[_by_group(rows.group[number])])

    def _order(self, slices: list[Slice]) -> np.ndarray:
        key = np.concatenate([self._key.read(*one) for one in slices])
        order = np.argsort(key, kind="stable")  # fast, as it is made of sorted runs
        if self._has_groups:
            group = np.concatenate([self._group.read(*one) for one in slices])
            order = order[_by_group(group[order])]
        return order

    @property
    def _has_groups(self) -> bool:
        return self._runs[0].group is not None

    def _bounds(self) -> list[tuple[list[Slice], bool]]:
        """The slices of each piece, and whether all its rows are equal: those of one part then, in their order.

        Other pieces have about _PIECE rows at most.
        """
        key = np.concatenate([run.key for run in self._runs])
        groups = [run.group for run in self._runs if run.group is not None]
        group = np.concatenate(groups) if groups else None
        order = np.argsort(key, kind="stable") if group is None else np.lexsort((key, group))
        step = max(1, _PIECE // _STEP)
        edges = dict.fromkeys(
            (None if group is None else int(group[one]), key[one]) for one in order[step::step].tolist()
        )
        start = np.zeros(len(self._runs), dtype=np.int64)
        bounds: list[tuple[list[Slice], bool]] = []
        for edge in edges:
            first, stop = np.array([self._find(run, *edge) for run in self._runs], dtype=np.int64).T
            bounds.append((self._slices(start, first), False))
            bounds += [([one], True) for one in self._slices(first, stop)]
            start = stop
        bounds.append((self._slices(start, np.array([run.size for run in self._runs])), False))
        return [bound for bound in bounds if bound[0]]

    def _slices(self, start: np.ndarray, stop: np.ndarray) -> list[Slice]:
        some = np.flatnonzero(stop > start).tolist()
        return [Slice(self._runs[n].at + int(start[n]), int(stop[n] - start[n])) for n in some]

    def _find(self, run: _Run, group: int | None, key: np.uint64) -> tuple[int, int]:
        """The positions [start, stop) of the rows of a group and key in a run."""
        low, high = 0, len(run.key)
        if group is not None and run.group is not None:
            low, high = (int(np.searchsorted(run.group, group, side=side)) for side in ("left", "right"))
        found = []
        for side in ("left", "right"):
            sample = low + int(np.searchsorted(run.key[low:high], key, side=side))
            # The position lies after the sample before, and at or before this one.
            first, stop = max(0, (sample - 1) * _STEP), min(sample * _STEP, run.size)
            keys = self._key.read(run.at + first, stop - first)
            within, last = 0, len(keys)
            if group is not None:
                groups = self._group.read(run.at + first, stop - first)
                within, last = (int(np.searchsorted(groups, group, side=end)) for end in ("left", "right"))
            found.append(first + within + int(np.searchsorted(keys[within:last], key, side=side)))
        return found[0], found[1]


def _by_group(group: np.ndarray) -> np.ndarray:
    """Sorts rows by group; those of one group stay in their order. int64 [R]."""
    few = np.max(group, initial=0) < 1 << 16
    return np.argsort(group.astype(np.uint16) if few else group, kind="stable")  # of 16 bits it is a radix sort
