"""An order of the rows of score tables, and what its selections keep."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from pruner.errors import InputError
from pruner.ranks.coarse import CoarseRanks, percentile_rule
from pruner.ranks.cuts import Cuts, find_cuts
from pruner.ranks.exact import ExactRanks
from pruner.ranks.parts import Ranking, Workers
from pruner.ranks.scratch import KeptRanking
from pruner.ranks.search import count
from pruner.ranks.table_ranking import TableRanking
from pruner.score_tables.tables import Tables
from pruner.spec import SelectionSpec
from pruner.tables.table_files import is_folder

_KEPT_ROWS = 2 * 10**8  # of tables whose keys are kept in temporary files, so that they are read once


class Ordered:
    """Selections that have one order, within domains or not, over score tables."""

    def __init__(
        self,
        tables: Tables,
        source: TableRanking,
        specs: Sequence[SelectionSpec],
        folder: Path,
        workers: Callable[[str], Workers],
        stack: ExitStack,
    ) -> None:
        """Reads the tables, and closes temporary files in `folder` with `stack`. Raises InputError.

        `workers` are asked for by the name of what they do.
        """
        self.source = source
        self._tables, self._ranking = tables, self._kept(tables, source, folder, stack)
        self._counted = count(self._ranking, workers("counting"))
        if not self.documents:
            why = ", ".join(f"{rows:,} {reason}" for reason, rows in source.left_out.items())
            advice = "order by another column with --key, or count documents"
            raise InputError(f"{tables.tables[0].path.url}: no row can be selected ({why}): {advice}")
        self.cuts = dict(zip(specs, find_cuts(self._counted, specs, workers("searching")), strict=True))
        exact = [cuts for cuts in self.cuts.values() if not _is_folder(cuts)]
        self._exact = self._coarse = None
        if exact:
            self._exact = stack.enter_context(closing(ExactRanks(self._counted, exact, folder, workers("ranking"))))
        if len(exact) < len(specs):
            self._coarse = CoarseRanks(self._counted, workers("ranking"))

    @staticmethod
    def _kept(tables: Tables, source: TableRanking, folder: Path, stack: ExitStack) -> Ranking:
        return source if tables.rows > _KEPT_ROWS else stack.enter_context(closing(KeptRanking(source, folder)))

    @property
    def documents(self) -> int:
        """N, of all domains."""
        return int(self._counted.documents.sum())

    def is_folder(self, spec: SelectionSpec) -> bool:
        """Whether a manifest is a folder, whose percentiles come from counters."""
        return _is_folder(self.cuts[spec])

    def percentile_rule(self, spec: SelectionSpec) -> str:
        """How exact the percentiles of a selection are."""
        return percentile_rule(int(self.cuts[spec].documents.sum()))

    def kept(self, part: int) -> dict[SelectionSpec, tuple[np.ndarray, tuple[int, int] | None]]:
        """What each selection keeps of a part: percentiles, float64 [rows], NaN of rows that are not kept.

        Also the lowest and highest key of its rows, None if it keeps none.
        """
        rows = self._ranking.read(part)
        exact = None if self._exact is None else self._exact.percentiles(rows, part)
        coarse = None if self._coarse is None else self._coarse.percentiles(rows, part)
        found = {}
        for spec, cuts in self.cuts.items():
            values = coarse if _is_folder(cuts) else exact
            kept = np.flatnonzero(cuts.kept(rows, part))
            percentile = np.full(self._tables.parts[part].rows, np.nan)
            if values is not None:
                percentile[rows.row[kept]] = values[kept]
            keys = rows.key[kept]
            found[spec] = percentile, (int(keys.min()), int(keys.max())) if len(keys) else None
        return found


def _is_folder(cuts: Cuts) -> bool:
    return is_folder(int(cuts.documents.sum()))
