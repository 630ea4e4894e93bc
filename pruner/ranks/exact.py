"""Exact ranks of the documents that selections of one order keep, sorted through temporary files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pruner.ranks.cuts import Cuts
from pruner.ranks.parts import RankedRows, Workers
from pruner.ranks.runs import SortedRuns
from pruner.ranks.scratch import ScratchArray
from pruner.ranks.search import Counted


class ExactRanks:
    """The ranks of all documents that some selections of one order keep."""

    def __init__(self, counted: Counted, cuts: Sequence[Cuts], folder: Path, workers: Workers) -> None:
        """Sorts the kept documents; needs 16 bytes of disk space in `folder` for each, 20 with groups."""

        def kept(rows: RankedRows, part: int) -> np.ndarray:
            return np.asarray(np.any([one.kept(rows, part) for one in cuts], axis=0))

        self._sizes = counted.documents
        self._before = np.concatenate([[0], np.cumsum(self._sizes)])  # documents of the groups before each
        self._starts, self._ranks = _intervals(self._before[:-1], cuts)
        self._runs = SortedRuns(counted.ranking, folder, workers, mask=kept)
        self._position = ScratchArray(folder, np.uint32)  # of each sorted document, among all kept ones
        try:
            for piece in self._runs.pieces(workers):
                position = np.arange(piece.first, piece.first + piece.size, dtype=np.uint32)
                self._runs.scatter(self._position, piece, position)
        except BaseException:
            self.close()
            raise

    def percentiles(self, rows: RankedRows, part: int) -> np.ndarray:
        """100 · rank / N of each row of a part, N and ranks being those of its group, float64 [R]; NaN if not kept."""
        percentile = np.full(len(rows.row), np.nan)
        run, number = self._runs.run(part)
        position = self._position.read(*run).astype(np.int64)
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
        self._runs.close()
        self._position.close()


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
