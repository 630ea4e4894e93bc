"""Finds documents of an order by running sums of documents or tokens, without sorting the order."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pruner.ranks.cells import Cells, Opened, cell_codes, count_cells, group_starts, merge_cells
from pruner.ranks.parts import Ranking, Workers, places

GATHERED_MAX = 1 << 22  # documents that are sorted in memory at a time; of more, smaller cells are counted first


class Targets(NamedTuple):
    """The first document of a group, in its order, whose running sum passes a value. All arrays are [T].

    The sum is that of the documents, or of the tokens, of the group up to and with this one.
    """

    group: np.ndarray  # int64
    value: np.ndarray  # int64
    tokens: np.ndarray  # bool: sums of tokens, else of documents
    reach: np.ndarray  # bool: the sum is at least the value, else it is above

    @classmethod
    def of(cls, group: np.ndarray, value: np.ndarray, *, tokens: bool, reach: bool = False) -> "Targets":
        """Targets that differ in group and value alone."""
        return cls(group, value, np.full(len(group), tokens), np.full(len(group), reach))

    @classmethod
    def joined(cls, targets: "list[Targets]") -> "Targets":
        """All targets, one after the other; of one at least."""
        return cls(*(np.concatenate(columns) for columns in zip(*targets, strict=True)))


class Documents(NamedTuple):
    """Documents in the order of (group, key, place), or in that of the targets that they were found for. All [D]."""

    group: np.ndarray  # int64
    key: np.ndarray  # uint64
    place: np.ndarray  # uint64
    tokens: np.ndarray  # int64


class Found(NamedTuple):
    """The documents that were found, in the order of the targets. All arrays are [T]."""

    there: np.ndarray  # bool: False where no sum of the group passes the value; the other arrays mean nothing then
    document: Documents
    rank: np.ndarray  # int64, documents of the group before it
    below: np.ndarray  # int64, tokens of these


@dataclass(frozen=True)
class Counted:
    """A ranking, and the counts of its cells of level 0."""

    ranking: Ranking
    cells: Cells
    starts: np.ndarray  # int64 [G + 1], the first cell of each group

    @property
    def groups(self) -> int:
        """G."""
        return len(self.starts) - 1

    @cached_property
    def documents(self) -> np.ndarray:
        """Documents of each group, int64 [G]."""
        return np.diff(_sums(self.cells.documents)[self.starts])

    @cached_property
    def tokens(self) -> np.ndarray:
        """Tokens of each group, int64 [G]."""
        return np.diff(_sums(self.cells.tokens)[self.starts])

    @cached_property
    def longest(self) -> np.ndarray:
        """Tokens of the longest document of each group, int64 [G]."""
        longest = np.zeros(self.groups, dtype=np.int64)
        there = self.starts[1:] > self.starts[:-1]
        if there.any():
            longest[there] = np.maximum.reduceat(self.cells.longest, self.starts[:-1][there])
        return longest


def count(ranking: Ranking, workers: Workers) -> Counted:
    """Reads a ranking once."""

    def counted(part: int) -> Cells:
        rows = ranking.read(part)
        return count_cells(cell_codes(rows), rows.tokens)

    cells = merge_cells(workers.run(counted, ranking.parts))
    return Counted(ranking, cells, group_starts(cells, ranking.groups))


def find(counted: Counted, targets: Targets, workers: Workers) -> Found:
    """Finds the documents of targets. Reads the ranking once, and more often where many keys are almost equal."""
    cells, starts, opened = counted.cells, counted.starts, Opened()
    at, value, rank, below = _passing(cells, starts[targets.group], starts[targets.group + 1], targets)
    there = at >= 0
    left = Targets(targets.group[there], value[there], targets.tokens[there], targets.reach[there])
    at, rank, below = at[there], rank[there], below[there]
    while len(at):
        codes = np.unique(cells.code[at])
        opened = opened.open(codes)
        parent = np.searchsorted(codes, cells.code[at])
        inside = int(cells.documents[np.unique(at)].sum())
        documents: Documents | None = None
        if inside <= GATHERED_MAX or opened.innermost:
            documents = _gather(counted.ranking, opened, workers)
            ones = np.ones_like(documents.tokens)
            cells = Cells(np.arange(len(ones), dtype=np.uint64), ones, documents.tokens, documents.tokens)
            parents = documents.group
        else:
            cells = _count_inside(counted.ranking, opened, workers)
            parents = opened.parents(cells.code, opened.level)
        first, stop = (np.searchsorted(parents, parent, side=side) for side in ("left", "right"))
        at, value, more_rank, more_below = _passing(cells, first, stop, left)
        rank, below, left = rank + more_rank, below + more_below, left._replace(value=value)
        if documents is not None:
            break
    found = Found(there, *_of(len(there)))
    if len(at) and documents is not None:
        found.document.group[there] = left.group
        for column, values in zip(found.document[1:], documents[1:], strict=True):
            column[there] = values[at]
        found.rank[there], found.below[there] = rank, below
    return found


def _of(size: int) -> tuple[Documents, np.ndarray, np.ndarray]:
    signed, unsigned = (np.zeros((4, size), dtype=kind) for kind in (np.int64, np.uint64))
    return Documents(signed[0], unsigned[0], unsigned[1], signed[1]), signed[2], signed[3]


def _passing(
    cells: Cells, first: np.ndarray, stop: np.ndarray, targets: Targets
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The cell of [first, stop) in which the sum of each target passes its value, or -1; all int64 [T].

    Also the value that is left inside the cell, and the documents and tokens before the cell, from `first` on.
    """
    at = np.full(len(first), -1, dtype=np.int64)
    documents, tokens = _sums(cells.documents), _sums(cells.tokens)
    for sums, by_tokens in ((documents, False), (tokens, True)):
        for reach in (False, True):
            mine = np.flatnonzero((targets.tokens == by_tokens) & (targets.reach == reach))
            wanted = sums[first[mine]] + targets.value[mine]
            cell = np.searchsorted(sums[1:], wanted, side="left" if reach else "right")
            cell = np.maximum(cell, first[mine])  # cells before may reach a value of 0
            at[mine] = np.where(cell < stop[mine], cell, -1)
    there = np.maximum(at, first)
    there[at < 0] = 0
    before = documents[there] - documents[first], tokens[there] - tokens[first]
    return at, targets.value - np.where(targets.tokens, before[1], before[0]), *before


def _gather(ranking: Ranking, opened: Opened, workers: Workers) -> Documents:
    """All documents in the opened cells; `group` is the number of the opened cell."""

    def inside(part: int) -> Documents:
        rows = ranking.read(part)
        number, cell = opened.inside(rows, part)
        tokens = np.zeros_like(number) if rows.tokens is None else rows.tokens[number]
        return Documents(cell, rows.key[number], places(part, rows.row[number]), tokens)

    return in_order(list(workers.run(inside, ranking.parts)))


def in_order(parts: list[Documents]) -> Documents:
    """The documents of all parts, given in the order of parts and rows, in their order."""
    documents = Documents(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    order = np.lexsort((documents.key, documents.group))  # stable: places ascend already
    return Documents(*(column[order] for column in documents))


def _count_inside(ranking: Ranking, opened: Opened, workers: Workers) -> Cells:
    def inside(part: int) -> Cells:
        rows = ranking.read(part)
        number, codes = opened.next_codes(rows, part)
        return count_cells(codes, None if rows.tokens is None else rows.tokens[number])

    return merge_cells(workers.run(inside, ranking.parts))


def _sums(values: np.ndarray) -> np.ndarray:
    """The sums of the values before each, and of all: int64 [C + 1]."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
