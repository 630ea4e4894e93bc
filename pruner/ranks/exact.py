"""Exact ranks of the documents that selections of one order keep, sorted in pieces through temporary files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pruner.ranks.cuts import Cuts
from pruner.ranks.parts import RankedRows, Workers
from pruner.ranks.scratch import ScratchArray
from pruner.ranks.search import Counted

_PIECE = 1 << 20  # documents that are sorted at a time, about
_STEP = 1 << 10  # of the sorted documents of a part, each so many-th is a sample


class _Run(NamedTuple):
    """The kept documents of a part, sorted: `size` of them from the position `at` on, and samples of them."""

    at: int
    size: int
    group: np.ndarray | None  # int64, of the samples
    key: np.ndarray  # uint64, of the samples


class ExactRanks:
    """The ranks of all documents that some selections of one order keep."""

    def __init__(self, counted: Counted, cuts: Sequence[Cuts], folder: Path, workers: Workers) -> None:
        """Sorts the kept documents; needs 16 bytes of disk space in `folder` for each, 20 with groups."""
        self._counted, self._cuts = counted, cuts
        self._key, self._number = ScratchArray(folder, np.uint64), ScratchArray(folder, np.uint32)
        self._group, self._position = ScratchArray(folder, np.uint32), ScratchArray(folder, np.uint32)
        self._before = np.concatenate([[0], np.cumsum(counted.documents)])  # documents of the groups before each
        self._sizes = counted.documents
        self._starts, self._ranks = _intervals(self._before[:-1], cuts)
        self._runs = list(workers.run(self._write_run, counted.ranking.parts))
        pieces = self._pieces()
        bases = np.concatenate([[0], np.cumsum([int((stop - start).sum()) for start, stop, _ in pieces])]).tolist()

        def rank(number: int) -> None:
            self._rank(*pieces[number], bases[number])

        for _ in workers.run(rank, len(pieces)):
            pass

    def percentiles(self, rows: RankedRows, part: int) -> np.ndarray:
        """100 · rank / N of each row of a part, N and ranks being those of its group, float64 [R]; NaN if not kept."""
        percentile = np.full(len(rows.row), np.nan)
        run = self._runs[part]
        number = self._number.read(run.at, run.size)
        position = self._position.read(run.at, run.size).astype(np.int64)
        interval = np.searchsorted(self._starts, position, side="right") - 1
        rank = self._ranks[interval] + (position - self._starts[interval])
        if rows.group is None:
            percentile[number] = 100.0 * rank / self._sizes[0]
        else:
            group = rows.group[number]
            percentile[number] = 100.0 * (rank - self._before[group]) / self._sizes[group]
        return percentile

    def close(self) -> None:
        """Removes the temporary files."""
        for array in (self._key, self._number, self._group, self._position):
            array.close()

    def _write_run(self, part: int) -> _Run:
        """Sorts the kept documents of a part."""
        rows = self._counted.ranking.read(part)
        kept = np.zeros(len(rows.row), dtype=bool)
        for cuts in self._cuts:
            kept |= cuts.kept(rows, part)
        number = np.flatnonzero(kept)
        key, group = rows.key[number], None if rows.group is None else rows.group[number]
        order = np.argsort(key, kind="stable") if group is None else np.lexsort((key, group))
        key = key[order]
        at = self._key.append(key)
        self._number.write(at, number[order])
        if group is not None:
            group = group[order]
            self._group.write(at, group)
        return _Run(at, len(key), None if group is None else group[::_STEP].copy(), key[::_STEP].copy())

    def _pieces(self) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """Pieces of all runs, in their order: positions [start, stop) in each run, int64 [runs], and whether all are
        equal. A piece of equal documents may be of any size, all others have about _PIECE documents at most.
        """
        key = np.concatenate([run.key for run in self._runs])
        groups = [run.group for run in self._runs if run.group is not None]
        group = np.concatenate(groups) if groups else None
        order = np.argsort(key, kind="stable") if group is None else np.lexsort((key, group))
        step = max(1, _PIECE // _STEP)
        chosen = order[step::step]
        edges = [(None if group is None else int(group[one]), key[one]) for one in chosen.tolist()]
        pieces, start = [], np.zeros(len(self._runs), dtype=np.int64)
        for number, edge in enumerate(edges):
            if number and edge == edges[number - 1]:
                continue
            first, stop = np.array([self._find(run, *edge) for run in self._runs], dtype=np.int64).T
            pieces += [(start, first, False), (first, stop, True)]
            start = stop
        pieces.append((start, np.array([run.size for run in self._runs]), False))
        return [piece for piece in pieces if (piece[1] > piece[0]).any()]

    def _find(self, run: _Run, group: int | None, key: np.uint64) -> tuple[int, int]:
        """The positions [start, stop) of the documents of a group and key in a run."""
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

    def _rank(self, start: np.ndarray, stop: np.ndarray, equal: bool, base: int) -> None:
        """Writes the positions of the documents of a piece among all kept ones."""
        sizes = (stop - start).tolist()
        places = [(run.at + int(at), size) for run, at, size in zip(self._runs, start, sizes, strict=True) if size]
        if equal:
            for at, size in places:
                self._position.write(at, np.arange(base, base + size, dtype=np.uint32))
                base += size
            return
        key = np.concatenate([self._key.read(at, size) for at, size in places])
        if self._runs[0].group is None:
            order = np.argsort(key, kind="stable")  # fast, as it is made of sorted runs
        else:
            order = np.lexsort((key, np.concatenate([self._group.read(at, size) for at, size in places])))
        position = np.empty(len(order), dtype=np.uint32)
        position[order] = np.arange(base, base + len(order), dtype=np.uint32)
        done = 0
        for at, size in places:
            self._position.write(at, position[done : done + size])
            done += size


def _intervals(before: np.ndarray, cuts: Sequence[Cuts]) -> tuple[np.ndarray, np.ndarray]:
    """The kept documents as disjoint runs of ranks, counted through all groups, two int64 [I], ascending.

    That is the number of kept documents before each run, and the first rank of each run.
    """
    start = np.concatenate([before + one.start.rank for one in cuts])
    stop = np.concatenate([before + one.stop.rank for one in cuts])
    order = np.argsort(start, kind="stable")
    start, stop = start[order], np.maximum.accumulate(stop[order])
    first = np.concatenate([[True], start[1:] > stop[:-1]])
    ranks = start[first]
    ends = stop[np.concatenate([first[1:], [True]])]
    return np.concatenate([[0], np.cumsum(ends - ranks)])[:-1], ranks
