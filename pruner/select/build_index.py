"""Builds an index: sorts the documents of a table of scores through temporary files, in little memory."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pruner.ranks.parts import RankedRows, Workers
from pruner.ranks.rank_key import RankKey, floats
from pruner.ranks.runs import Piece, SortedRuns
from pruner.ranks.scratch import KeptRanking, ScratchArray
from pruner.ranks.sort_keys import float_of
from pruner.ranks.table_ranking import TableRanking
from pruner.select import domain_marks
from pruner.select.domain_marks import column_count, write_marks
from pruner.select.index import Index
from pruner.select.key_limits import block_limits
from pruner.select.sampled_sums import sample
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable

_THREADS_MAX = 4  # each needs some 100 MB
_PLACE, _KEY, _TOKENS, _DOMAIN = range(4)  # columns of the sorted rows


def build_index(
    storage: Storage,
    scores_path: str,
    rank_key: RankKey,
    domains: Iterable[str | None],
    shard_rows: Sequence[int],
    beat: Callable[[], None],
) -> Index:
    """Ranks the documents of a table of scores; its arrays are mapped from temporary files.

    `domains` are all of the documents that are ranked, in their order; `shard_rows` are the rows of each shard. Calls
    `beat` for each part and piece. Temporary files take up to 130 bytes a document, in the storage's folder if it is
    local. Raises FileNotFoundError if the table is missing.
    """
    table = StoredTable(storage, scores_path)
    names = list(domains)
    own = storage.local("")
    folder = own if own is not None else Path(tempfile.gettempdir())
    workers = Workers(min(len(os.sched_getaffinity(0)), _THREADS_MAX), lambda _done: beat())
    with ExitStack() as stack:

        def scratch(dtype: type[np.generic]) -> ScratchArray:
            return stack.enter_context(closing(ScratchArray(folder, dtype)))

        # Without a reference documents have no tokens, and are ranked all the same.
        source = TableRanking(table, rank_key, tokens=False, within=True, domains=names)
        sorter = _Sorter(table, stack.enter_context(closing(KeptRanking(source, folder))), rank_key, folder, workers)
        with closing(sorter.sorted(inside=False)) as runs:
            whole = _whole(runs, sorter, scratch, len(names))
            runs_inside = sorter.sorted(inside=True, by_key=runs)
        with closing(runs_inside):
            inside = _inside(runs_inside, sorter, scratch)
    return Index(
        below=whole.below,
        key=whole.key,
        domain=whole.domain,
        place=whole.place,
        rank=whole.rank,
        marks=whole.marks,
        inside_below=inside.below,
        inside_key=inside.key,
        inside_place=inside.place,
        inside_bounds=_sums(whole.sizes),
        inside_rank=inside.rank,
        shards=_sums(np.array(shard_rows, dtype=np.int64)),
        limits=block_limits(whole.key),
        inside_limits=block_limits(inside.key),
        inside_samples=sample(inside.below),
        step=domain_marks.STEP,
        columns=column_count(len(names)),
        domain_names=names,
    )


class _Sorter:
    """Sorts the documents of a table."""

    def __init__(
        self, table: StoredTable, ranking: KeptRanking, rank_key: RankKey, folder: Path, workers: Workers
    ) -> None:
        self._table, self._ranking, self._rank_key = table, ranking, rank_key
        self._folder, self.workers = folder, workers

    def sorted(self, *, inside: bool, by_key: SortedRuns | None = None) -> SortedRuns:
        """The documents, inside their domains or not, with their places, ln(perplexity), tokens and domains.

        `by_key` are those not inside their domains, if they were sorted.
        """
        return SortedRuns(
            self._ranking,
            self._folder,
            self.workers,
            inside=inside,
            by_key=by_key,
            columns=(np.int64, np.float64, np.int32, np.int32),
            values=self._values,
        )

    def rank_of_rows(self, runs: SortedRuns, position: ScratchArray, target: ScratchArray) -> None:
        """Appends the position of each row of the table among the sorted ones, -1 if it is not there."""
        for part, at in enumerate(self._table.parts):
            run, number = runs.run(part)
            ranks = np.full(at.rows, -1, dtype=np.int64)
            ranks[self._ranking.read(part).row[number]] = position.read(*run)
            target.append(ranks)

    def _values(self, rows: RankedRows, part: int) -> list[np.ndarray]:
        if rows.tokens is None or rows.group is None:
            raise ValueError("the documents of an index have tokens and domains")
        place = rows.row + self._table.parts[part].first_row
        if self._rank_key.by_token:
            key = float_of(rows.key)
        else:
            with np.errstate(invalid="ignore"):  # of a job without a reference
                key = floats(self._table.read(part, ["nll"])["nll"])[rows.row] / rows.tokens
        return [place, key, rows.tokens, rows.group]


class _Whole(NamedTuple):
    """The arrays of the order of all documents, as those of Index."""

    below: np.ndarray
    key: np.ndarray
    domain: np.ndarray
    place: np.ndarray
    rank: np.ndarray
    marks: np.ndarray
    sizes: np.ndarray  # int64 [domains], the documents of each domain


class _Inside(NamedTuple):
    """The arrays of the order inside each domain, as those of Index."""

    below: np.ndarray
    key: np.ndarray
    place: np.ndarray
    rank: np.ndarray


Scratch = Callable[[type[np.generic]], ScratchArray]


def _whole(runs: SortedRuns, sorter: _Sorter, scratch: Scratch, domains: int) -> _Whole:
    below, key, domain, place = scratch(np.int64), scratch(np.float64), scratch(np.int32), scratch(np.int64)
    position, rank = scratch(np.int64), scratch(np.int64)
    sizes, tokens = np.zeros(domains, dtype=np.int64), 0
    below.append(np.zeros(1, dtype=np.int64))
    for piece in runs.pieces(sorter.workers):
        counted, codes = runs.column(_TOKENS, piece).astype(np.int64), runs.column(_DOMAIN, piece)
        key.append(runs.column(_KEY, piece))
        domain.append(codes)
        place.append(runs.column(_PLACE, piece))
        below.append(tokens + np.cumsum(counted))
        tokens += int(counted.sum())
        sizes += np.bincount(codes, minlength=domains)
        _write_positions(runs, position, piece)
    sorter.rank_of_rows(runs, position, rank)
    marks = scratch(np.int64)
    write_marks(marks, domain.mapped(), below.mapped(), sizes)
    arrays = below.mapped(), key.mapped(), domain.mapped(), place.mapped(), rank.mapped()
    return _Whole(*arrays, marks.mapped(), sizes)


def _inside(runs: SortedRuns, sorter: _Sorter, scratch: Scratch) -> _Inside:
    below, key, place = scratch(np.int64), scratch(np.float64), scratch(np.int64)
    position, rank = scratch(np.int64), scratch(np.int64)
    tokens = 0
    below.append(np.zeros(1, dtype=np.int64))
    for piece in runs.pieces(sorter.workers):
        counted = runs.column(_TOKENS, piece).astype(np.int64)
        key.append(runs.column(_KEY, piece))
        place.append(runs.column(_PLACE, piece))
        below.append(tokens + np.cumsum(counted))
        tokens += int(counted.sum())
        _write_positions(runs, position, piece)
    sorter.rank_of_rows(runs, position, rank)
    return _Inside(below.mapped(), key.mapped(), place.mapped(), rank.mapped())


def _write_positions(runs: SortedRuns, position: ScratchArray, piece: Piece) -> None:
    runs.scatter(position, piece, np.arange(piece.first, piece.first + piece.size))


def _sums(values: np.ndarray) -> np.ndarray:
    """The sums of the values before each, and of all: int64 [D + 1]."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:], dtype=np.int64)
    return sums
