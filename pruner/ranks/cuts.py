"""Cuts: the run of documents that a selection keeps of each group of an order, given by its first and last documents.

The rules are those of `bands.py`; here no array holds the tokens below every rank.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from pruner.ranks.bands import documents_band, exact_rate, medium_tokens_band
from pruner.ranks.parts import RankedRows, Workers, places
from pruner.ranks.search import Counted, Documents, Found, Targets, find, in_order
from pruner.spec import SelectionSpec

_END = np.uint64(2**64 - 1)  # no document has this place


class Edge(NamedTuple):
    """A position in each group of an order: that before its first document that is not below (key, place). All [G]."""

    key: np.ndarray  # uint64
    place: np.ndarray  # uint64
    rank: np.ndarray  # int64, documents of the group before the position
    below: np.ndarray  # int64, their tokens


class Cuts(NamedTuple):
    """What a selection keeps of each group: the documents from `start` to `stop`."""

    start: Edge
    stop: Edge

    def kept(self, rows: RankedRows, part: int) -> np.ndarray:
        """Which rows of a part are kept, bool [R]."""
        place = places(part, rows.row)
        from_start = _not_below(self.start, rows, place)
        return np.asarray(from_start & ~_not_below(self.stop, rows, place))

    @property
    def documents(self) -> np.ndarray:
        """Kept documents of each group, int64 [G]."""
        return np.asarray(self.stop.rank - self.start.rank)

    @property
    def tokens(self) -> np.ndarray:
        """Kept tokens of each group, int64 [G]."""
        return np.asarray(self.stop.below - self.start.below)


def _not_below(edge: Edge, rows: RankedRows, place: np.ndarray) -> np.ndarray:
    key, at = (edge.key[0], edge.place[0]) if rows.group is None else (edge.key[rows.group], edge.place[rows.group])
    return np.asarray((rows.key > key) | ((rows.key == key) & (place >= at)))


def find_cuts(counted: Counted, specs: Sequence[SelectionSpec], workers: Workers) -> list[Cuts]:
    """The cuts of selections that have this order. Reads the ranking once; once more for medium by tokens.

    Selections within domains need a ranking with groups, all others one without.
    """
    groups = np.arange(counted.groups)
    wanted = [_targets(counted, spec, groups) for spec in specs]
    edges: list[list[Found]] = [[] for _ in specs]
    if any(wanted):
        found = _Answers(find(counted, Targets.joined([one for some in wanted for one in some]), workers), len(groups))
        edges = [[found.take() for _ in some] for some in wanted]
    middles = {number: _Middle(counted, spec) for number, spec in enumerate(specs) if _grows_both_ways(spec)}
    if middles:
        around = Targets.joined([one for middle in middles.values() for one in middle.targets()])
        answers = _Answers(find(counted, around, workers), len(groups))
        for middle in middles.values():
            middle.take([answers.take() for _ in range(4)])
        _read_sides(counted, list(middles.values()), workers)
    return [
        middles[number].cuts() if number in middles else _cuts(counted, spec, edges[number])
        for number, spec in enumerate(specs)
    ]


def _grows_both_ways(spec: SelectionSpec) -> bool:
    return spec.unit == "tokens" and spec.criterion == "medium"


class _Answers:
    """What was found for some targets, taken group by group."""

    def __init__(self, found: Found, groups: int) -> None:
        self._found, self._groups, self._at = found, groups, 0

    def take(self) -> Found:
        """The next answer of each group."""
        part = slice(self._at, self._at + self._groups)
        self._at += self._groups
        there, document, rank, below = self._found
        return Found(there[part], Documents(*(column[part] for column in document)), rank[part], below[part])


def _targets(counted: Counted, spec: SelectionSpec, groups: np.ndarray) -> list[Targets]:
    """What to look for: the document at the lower edge, and at the upper edge, of each group."""
    rate = exact_rate(spec)
    if spec.unit == "documents":
        bands = [documents_band(size, spec.criterion, rate) for size in counted.documents.tolist()]
        edges = np.array(bands, dtype=np.int64).reshape(-1, 2)
        return [Targets.of(groups, edges[:, side], tokens=False) for side in (0, 1)]
    budgets = _budgets(counted, rate)
    if spec.criterion in ("low", "random"):
        return [Targets.of(groups, budgets, tokens=True)]
    if spec.criterion == "high":
        return [Targets.of(groups, counted.tokens - budgets, tokens=True, reach=True)]
    return []


def _budgets(counted: Counted, rate: Fraction) -> np.ndarray:
    """Tokens that may be kept of each group, int64 [G]."""
    top = counted.tokens.tolist()
    return np.array([rate.numerator * tokens // rate.denominator for tokens in top], dtype=np.int64)


def _cuts(counted: Counted, spec: SelectionSpec, found: list[Found]) -> Cuts:
    if spec.unit == "documents":
        return Cuts(_before(counted, found[0]), _before(counted, found[1]))
    if spec.criterion == "high":
        needed = counted.tokens - _budgets(counted, exact_rate(spec))
        return Cuts(_after(counted, found[0], needed), _last(counted))
    return Cuts(_first(counted), _before(counted, found[0]))


def _first(counted: Counted) -> Edge:
    """The position before all documents."""
    unsigned, signed = np.zeros(counted.groups, dtype=np.uint64), np.zeros(counted.groups, dtype=np.int64)
    return Edge(unsigned, unsigned, signed, signed)


def _last(counted: Counted) -> Edge:
    """The position after all documents."""
    end = np.full(counted.groups, _END)
    return Edge(end, end, counted.documents, counted.tokens)


def _before(counted: Counted, found: Found) -> Edge:
    """The position before a document, or after all where there is none."""
    document = found.document
    here = Edge(document.key, document.place, found.rank, found.below)
    return Edge(*(np.where(found.there, *pair) for pair in zip(here, _last(counted), strict=True)))


def _after(counted: Counted, found: Found, needed: np.ndarray) -> Edge:
    """The position after a document whose tokens complete those that are needed; before all where none are needed."""
    document = found.document
    here = Edge(document.key, document.place + np.uint64(1), found.rank + 1, found.below + document.tokens)
    edge = Edge(*(np.where(found.there, *pair) for pair in zip(here, _last(counted), strict=True)))
    return Edge(*(np.where(needed > 0, *pair) for pair in zip(edge, _first(counted), strict=True)))


class _Middle:
    """A selection of tokens grown from the middle: its edges lie where almost as many tokens are outside on each side.

    While it grows, the tokens outside on both sides differ by no more than the longest document has. So both edges lie
    in two short runs of documents, its sides, and what is between them is kept in any case: to the rule in bands.py it
    is like one long document. A selection of less than a few documents has one side, around the middle.
    """

    def __init__(self, counted: Counted, spec: SelectionSpec) -> None:
        self._counted = counted
        self._groups = np.arange(counted.groups)
        self._budgets = _budgets(counted, exact_rate(spec))
        top, longest = counted.tokens, counted.longest
        outside = top - self._budgets
        self._far = np.maximum(outside // 2 - 3 * longest, 0)  # tokens outside of both sides, on each side
        near = -(-outside // 2) + longest  # tokens outside of what is kept in any case, at most, on each side
        self._one_side = near >= top // 2 - 2 * longest
        self._near = near
        self._edges: list[Edge] = []
        self._sides: list[Documents] = []

    def targets(self) -> list[Targets]:
        """The documents around the sides."""
        top = self._counted.tokens
        near = np.where(self._one_side, self._far, self._near)
        return [
            Targets.of(self._groups, self._far, tokens=True),
            Targets.of(self._groups, near, tokens=True),
            Targets.of(self._groups, top - near, tokens=True, reach=True),
            Targets.of(self._groups, top - self._far, tokens=True, reach=True),
        ]

    def take(self, found: list[Found]) -> None:
        """Takes what was found for the targets."""
        counted, top = self._counted, self._counted.tokens
        near = np.where(self._one_side, self._far, self._near)
        first, last = _before(counted, found[0]), _after(counted, found[3], top - self._far)
        # Documents without tokens at the very ends belong to the sides too.
        first = Edge(*(np.where(self._far > 0, *pair) for pair in zip(first, _first(counted), strict=True)))
        last = Edge(*(np.where(self._far > 0, *pair) for pair in zip(last, _last(counted), strict=True)))
        low, high = _before(counted, found[1]), _after(counted, found[2], top - near)
        low = Edge(*(np.where(self._one_side, *pair) for pair in zip(last, low, strict=True)))
        high = Edge(*(np.where(self._one_side, *pair) for pair in zip(last, high, strict=True)))
        self._edges = [first, low, high, last]

    def side_cuts(self) -> list[Cuts]:
        """The documents of both sides."""
        first, low, high, last = self._edges
        return [Cuts(first, low), Cuts(high, last)]

    def take_sides(self, sides: list[Documents]) -> None:
        """Takes the documents of both sides."""
        self._sides = sides

    def cuts(self) -> Cuts:
        """The selection's cuts."""
        ends = [_writable(_first(self._counted)), _writable(_first(self._counted))]
        bounds = [np.searchsorted(side.group, np.arange(len(self._groups) + 1)).tolist() for side in self._sides]
        for group in self._groups.tolist():
            lower, upper = (
                Documents(*(column[at[group] : at[group + 1]] for column in side))
                for side, at in zip(self._sides, bounds, strict=True)
            )
            first, low, high, last = (Edge(*(column[group : group + 1] for column in edge)) for edge in self._edges)
            left = first.below + np.concatenate([[0], np.cumsum(lower.tokens)])
            right = high.below + np.concatenate([[0], np.cumsum(upper.tokens)])
            one_side = bool(self._one_side[group])
            below = left if one_side else np.concatenate([left, right])
            top, budget = int(self._counted.tokens[group]), int(self._budgets[group])
            band = medium_tokens_band(below, 0, top, budget) if len(below) > 1 else (0, 0)
            for end, position in zip(ends, band, strict=True):
                if position < len(lower.key):
                    found = lower.key[position], lower.place[position], first.rank[0] + position, left[position]
                elif one_side or position == len(lower.key):
                    found = tuple(column[0] for column in (last if one_side else low))
                elif position - len(left) < len(upper.key):
                    number = position - len(left)
                    found = upper.key[number], upper.place[number], high.rank[0] + number, right[number]
                else:
                    found = tuple(column[0] for column in last)
                for column, value in zip(end, found, strict=True):
                    column[group] = value
        return Cuts(*ends)


def _writable(edge: Edge) -> Edge:
    return Edge(*(column.copy() for column in edge))


def _read_sides(counted: Counted, middles: list[_Middle], workers: Workers) -> None:
    """Reads the documents of the sides of all selections at once."""
    cuts = [one for middle in middles for one in middle.side_cuts()]

    def inside(part: int) -> list[Documents]:
        rows = counted.ranking.read(part)
        found = []
        for one in cuts:
            at = np.flatnonzero(one.kept(rows, part))
            group = np.zeros_like(at) if rows.group is None else rows.group[at]
            tokens = np.zeros_like(at) if rows.tokens is None else rows.tokens[at]
            found.append(Documents(group, rows.key[at], places(part, rows.row[at]), tokens))
        return found

    parts = list(workers.run(inside, counted.ranking.parts))
    sides = [in_order([part[number] for part in parts]) for number in range(len(cuts))]
    for number, middle in enumerate(middles):
        middle.take_sides(sides[2 * number : 2 * number + 2])
