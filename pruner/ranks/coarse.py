"""Ranks from counters alone: of each document the rank at which its cell begins, and cells of few documents."""

import numpy as np

from pruner.ranks.cells import Cells, Opened, cell_codes, count_cells, merge_cells
from pruner.ranks.parts import RankedRows, Workers
from pruner.ranks.search import Counted
from pruner.tables.table_files import is_folder

RESOLUTION = 65_536  # a rank is too low by less than N / RESOLUTION
_OF_PARTS = 4  # the level of cells that hold the documents of one key and one part


def percentile_rule(rows: int) -> str:
    """How exact the percentiles of a manifest of so many rows are at least, as its provenance says."""
    return f"exact to 1/{RESOLUTION:,} of the documents" if is_folder(rows) else "exact"


class CoarseRanks:
    """The ranks of all documents of an order, each too low by less than N / 65,536 of its group's N documents.

    Ranks of equal keys ascend by place, and are exact where many keys are equal.
    """

    def __init__(self, counted: Counted, workers: Workers) -> None:
        """Reads the ranking again only where many keys are almost equal."""
        self._sizes = counted.documents
        group = np.repeat(np.arange(counted.groups), np.diff(counted.starts))
        cells, rank = counted.cells, _before(counted.cells.documents, group)
        self._levels = [(cells, rank)]
        self._opened = [Opened()]
        while len(self._levels) <= _OF_PARTS:
            large = cells.documents * RESOLUTION > np.maximum(self._sizes[group], RESOLUTION)
            if not large.any():
                break
            opened = self._opened[-1].open(cells.code[large])
            self._opened.append(opened)
            cells = self._count(counted, opened, workers)
            parent = opened.parents(cells.code, opened.level)
            group = group[large][parent]
            rank = rank[large][parent] + _before(cells.documents, parent)
            self._levels.append((cells, rank))

    @staticmethod
    def _count(counted: Counted, opened: Opened, workers: Workers) -> Cells:
        def inside(part: int) -> Cells:
            return count_cells(opened.next_codes(counted.ranking.read(part), part)[1], None)

        return merge_cells(workers.run(inside, counted.ranking.parts))

    def percentiles(self, rows: RankedRows, part: int) -> np.ndarray:
        """100 · rank / N of each row of a part, N and ranks being those of its group, float64 [R]."""
        cells, ranks = self._levels[0]
        rank = ranks[np.searchsorted(cells.code, cell_codes(rows))]
        for level in range(1, len(self._levels)):
            cells, ranks = self._levels[level]
            number, codes = self._opened[level].next_codes(rows, part)
            at = np.searchsorted(cells.code, codes)
            rank[number] = ranks[at]
            if level == _OF_PARTS:
                rank[number] += _running(at)
        sizes = self._sizes[0] if rows.group is None else self._sizes[rows.group]
        return np.asarray(100.0 * rank / sizes)


def _before(documents: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """The documents in the cells before each one of the same parent, int64 [C]; parents ascend."""
    sums = np.cumsum(documents) - documents
    firsts = np.searchsorted(parent, parent)
    return np.asarray(sums - sums[firsts])


def _running(cell: np.ndarray) -> np.ndarray:
    """The number of rows before each row in the same cell, int64 [R]."""
    order = np.argsort(cell, kind="stable")
    starts = np.searchsorted(cell[order], cell[order])
    running = np.empty_like(cell)
    running[order] = np.arange(len(cell)) - starts
    return running
