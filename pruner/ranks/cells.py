"""Counters: documents and tokens in cells of sort keys. Those of parts add up to those of the table.

A cell is a range of positions in an order, named by a code. Cells of level 0 share a group and the first bits of the
key. A cell that is opened has cells of the next level inside: their codes are the number of the opened cell and the
next bits of the key; after the last bit of the key, of the place. A cell of the last level holds one document.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pruner.ranks.parts import RankedRows, places

FIRST_BITS = 28  # of a key, that cells of level 0 share: 65,536 cells from each power of two to the next
# Of each level: whether its bits are of the place, their number, and the number of bits to the right of them.
_LEVELS = (
    (False, FIRST_BITS, 36),
    (False, 12, 24),
    (False, 12, 12),
    (False, 12, 0),
    (True, 32, 32),
    (True, 16, 16),
    (True, 16, 0),
)
_MERGED_CELLS = 1 << 21  # of parts, collected before they are added up
_DENSE_CELLS = 1 << 22  # in a row, that are added up in arrays with a place for each
_FEW = 8  # opened cells that are compared one by one


class Cells(NamedTuple):
    """Cells of one level with a document at least. All arrays are [C]."""

    code: np.ndarray  # uint64, ascending
    documents: np.ndarray  # int64
    tokens: np.ndarray  # int64; 0 where they are not known
    longest: np.ndarray  # int64, tokens of the longest document


def cell_codes(rows: RankedRows) -> np.ndarray:
    """The codes of the cells of level 0, uint64 [R]."""
    first = rows.key >> np.uint64(_LEVELS[0][2])
    return first if rows.group is None else first | (rows.group.astype(np.uint64) << np.uint64(FIRST_BITS))


def group_starts(cells: Cells, groups: int) -> np.ndarray:
    """The number of the first cell of level 0 of each group, and the number of all cells: int64 [groups + 1]."""
    firsts = np.arange(groups + 1, dtype=np.uint64) << np.uint64(FIRST_BITS)
    return np.searchsorted(cells.code, firsts)


def count_cells(code: np.ndarray, tokens: np.ndarray | None) -> Cells:
    """Counts documents by cell: code uint64 [R], tokens int64 [R]."""
    if not len(code):
        return Cells(code, *(np.zeros(0, dtype=np.int64) for _ in range(3)))
    low, high = code.min(), code.max()
    if int(high - low) < 4 * len(code):
        offset = (code - low).astype(np.int64)
        documents = np.bincount(offset)
        there = np.flatnonzero(documents)
        code, documents = low + there.astype(np.uint64), documents[there]
        if tokens is None:
            return Cells(code, documents, np.zeros_like(documents), np.zeros_like(documents))
        sums, longest = np.zeros((2, int(offset.max()) + 1), dtype=np.int64)
        np.add.at(sums, offset, tokens)
        np.maximum.at(longest, offset, tokens)
        return Cells(code, documents, sums[there], longest[there])
    ones = np.ones(len(code), dtype=np.int64)
    given = np.zeros_like(ones) if tokens is None else tokens
    return _sum(Cells(code, ones, given, given))


def merge_cells(parts: Iterable[Cells]) -> Cells:
    """The sums of the counts of several parts."""
    merged, waiting, size = count_cells(np.zeros(0, dtype=np.uint64), None), list[Cells](), 0
    for part in parts:
        waiting.append(part)
        size += len(part.code)
        if size > max(_MERGED_CELLS, len(merged.code)):
            merged, waiting, size = _add([merged, *waiting]), [], 0
    return _add([merged, *waiting])


def _add(parts: list[Cells]) -> Cells:
    filled = [part for part in parts if len(part.code)]
    if not filled:
        return parts[0]
    low, high = min(part.code[0] for part in filled), max(part.code[-1] for part in filled)
    if int(high - low) >= _DENSE_CELLS:
        return _join(filled)
    sums = np.zeros((3, int(high - low) + 1), dtype=np.int64)
    for part in filled:
        at = (part.code - low).astype(np.int64)
        sums[0, at] += part.documents
        sums[1, at] += part.tokens
        sums[2, at] = np.maximum(sums[2, at], part.longest)
    there = np.flatnonzero(sums[0])
    return Cells(low + there.astype(np.uint64), *sums[:, there])


def _join(parts: list[Cells]) -> Cells:
    return _sum(Cells(*(np.concatenate(columns) for columns in zip(*parts, strict=True))))


def _sum(cells: Cells) -> Cells:
    """Adds up cells with equal codes, which may be in any order."""
    if not len(cells.code):
        return cells
    order = np.argsort(cells.code, kind="stable")
    code = cells.code[order]
    starts = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))
    return Cells(
        code[starts],
        np.add.reduceat(cells.documents[order], starts),
        np.add.reduceat(cells.tokens[order], starts),
        np.maximum.reduceat(cells.longest[order], starts),
    )


class Opened:
    """The opened cells of each level, from level 0 on: `codes` of a level uint64 [C], ascending."""

    def __init__(self, codes: tuple[np.ndarray, ...] = ()) -> None:
        self._codes = codes

    def open(self, codes: np.ndarray) -> "Opened":
        """The same with some cells of the next level opened."""
        return Opened((*self._codes, codes))

    def inside(self, rows: RankedRows, part: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows that lie in opened cells of all levels, as numbers int64 [I] into `rows`, ascending.

        Also the number of the opened cell of the last level that each lies in, int64 [I].
        """
        number, parent = _find(self._codes[0], cell_codes(rows))
        for level in range(1, len(self._codes)):
            found, parent = _find(self._codes[level], self._codes_inside(rows, part, number, parent, level))
            number = number[found]
        return number, parent

    def next_codes(self, rows: RankedRows, part: int) -> tuple[np.ndarray, np.ndarray]:
        """As `inside`, with the codes of the next level, uint64 [I], in place of the numbers of the opened cells."""
        number, parent = self.inside(rows, part)
        return number, self._codes_inside(rows, part, number, parent, len(self._codes))

    @staticmethod
    def parents(codes: np.ndarray, level: int) -> np.ndarray:
        """The opened cell of the level before that holds each cell of a level, int64 [C]."""
        return (codes >> np.uint64(_LEVELS[level][1])).astype(np.int64)

    @property
    def level(self) -> int:
        """The level of the cells inside the opened ones."""
        return len(self._codes)

    @property
    def innermost(self) -> bool:
        """Whether cells of the last level are opened, with one document each."""
        return len(self._codes) == len(_LEVELS)

    @staticmethod
    def _codes_inside(rows: RankedRows, part: int, number: np.ndarray, parent: np.ndarray, level: int) -> np.ndarray:
        of_place, bits, shift = _LEVELS[level]
        value = places(part, rows.row[number]) if of_place else rows.key[number]
        digit = (value >> np.uint64(shift)) & np.uint64((1 << bits) - 1)
        return np.asarray((parent.astype(np.uint64) << np.uint64(bits)) | digit)


def _find(opened: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which codes are those of opened cells, ascending, and of which ones: two int64 [I]."""
    if len(opened) <= _FEW:
        hit = np.zeros(len(code), dtype=bool)
        for one in opened:
            hit |= code == one
        found = np.flatnonzero(hit)
        return found, np.searchsorted(opened, code[found])
    at = np.minimum(np.searchsorted(opened, code), len(opened) - 1)
    found = np.flatnonzero(opened[at] == code)
    return found, at[found]
