"""Bands: the exact ranks that a selection keeps, from cumulative token counts in the order of the ranks."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from pruner.spec import Rule

_NEAR = 32  # documents on each side of where an end is expected


def band(below: np.ndarray, spec: Rule) -> tuple[int, int]:
    """Ranks [start, stop) that a selection keeps among N documents in its order.

    below int64 [N + 1]: the tokens of all documents with a lower rank, and last the tokens of all, from any base. Reads
    only O(log N) of them, so that an array mapped from disk is fast for any N.
    """
    rate = exact_rate(spec)
    if spec.unit == "documents":
        return documents_band(len(below) - 1, spec.criterion, rate)
    return _tokens_band(below, spec.criterion, rate)


def exact_rate(spec: Rule) -> Fraction:
    """The rate as the decimal that was written, not its nearest binary fraction."""
    return _decimal(spec.rate)


@lru_cache(maxsize=100)  # it is asked for in each of many domains
def _decimal(rate: float) -> Fraction:
    return Fraction(repr(rate))


def documents_band(count: int, criterion: str, rate: Fraction) -> tuple[int, int]:
    """Ranks [start, stop) that hold `rate` of `count` documents, rounded half up."""
    keep = (2 * rate.numerator * count + rate.denominator) // (2 * rate.denominator)
    start = {"low": 0, "random": 0, "medium": (count - keep) // 2, "high": count - keep}[criterion]
    return start, start + keep


def searched_sums(bottom: int, top: int, spec: Rule) -> list[int]:
    """The sums of tokens near whose places in `below` a band by tokens begins and ends, or starts to grow.

    `bottom` and `top` are the first and the last of `below`.
    """
    budget = _budget(bottom, top, exact_rate(spec))
    if spec.criterion in ("low", "random"):
        return [bottom + budget]
    if spec.criterion == "high":
        return [top - budget]
    outside = (top - bottom - budget) // 2
    return [bottom + (top - bottom) // 2, bottom + outside, top - outside]


def _budget(bottom: int, top: int, rate: Fraction) -> int:
    return rate.numerator * (top - bottom) // rate.denominator


def _tokens_band(below: np.ndarray, criterion: str, rate: Fraction) -> tuple[int, int]:
    """Ranks [start, stop) of the longest run whose tokens do not exceed `rate` of all.

    `low` and `random` grow from the bottom, `high` from the top.
    """
    if len(below) == 1:
        return 0, 0
    bottom, top = int(below[0]), int(below[-1])
    budget = _budget(bottom, top, rate)
    if criterion in ("low", "random"):
        return 0, int(np.searchsorted(below, bottom + budget, side="right")) - 1
    if criterion == "high":
        return int(np.searchsorted(below, top - budget, side="left")), len(below) - 1
    return medium_tokens_band(below, bottom, top, budget)


def medium_tokens_band(below: np.ndarray, bottom: int, top: int, budget: int) -> tuple[int, int]:
    """Ranks [start, stop) of the longest run around the middle whose tokens do not exceed the budget.

    It starts at the document that holds the middle token and adds the neighbour on the side with more tokens outside
    the band (the lower side if equal); when that neighbour does not fit, the other side grows alone. `below` is as in
    `band`, of the documents around the run alone if need be; all documents have the tokens from `bottom` to `top`.
    """
    count = len(below) - 1
    middle = min(int(np.searchsorted(below[1:], bottom + (top - bottom) // 2, side="right")), count - 1)
    # Both ends lie where about half of the tokens outside are, so that a few documents around these places suffice,
    # with all documents between them as one.
    outside = (top - bottom - budget) // 2
    low, high = (int(np.searchsorted(below, at)) for at in (bottom + outside, top - outside))
    first, last = max(0, low - _NEAR), min(count, high + _NEAR)
    inner = (low + _NEAR, high - _NEAR) if low + _NEAR <= middle < high - _NEAR else (middle, middle + 1)
    lower, upper = slice(first, inner[0] + 1), slice(inner[1], last + 1)
    if first <= inner[0] and inner[1] <= last and inner[0] - first + last - inner[1] <= 4 * _NEAR:
        near = [*np.asarray(below[lower]).tolist(), *np.asarray(below[upper]).tolist()]
        start, stop = (grown := _grown(near, inner[0] - first, bottom, top, budget)).band
        left_out = inner[1] - inner[0] - 1
        # The one document was added in its parts: before the last step if each side has gone beyond it.
        beyond = not left_out or (grown.lefts > 0 and grown.rights > 1)
        if beyond and (start > 0 or first == 0) and (stop < len(near) - 1 or last == count):
            return first + start, first + stop + left_out
    return _grown(below, middle, bottom, top, budget).band


class _Grown(NamedTuple):
    """Ranks [start, stop), and the steps down and up that were taken while both sides grew."""

    band: tuple[int, int]
    lefts: int
    rights: int


def _grown(below: Sequence[int] | np.ndarray, middle: int, bottom: int, top: int, budget: int) -> _Grown:
    """Grows a run from the document `middle`, as `medium_tokens_band` says, by binary searches."""
    count = len(below) - 1
    # Neighbours are added in the order of a merge of two falling sequences: the tokens left outside below before each
    # step down, and above before each step up; at equal values the step down comes first. So a binary search finds how
    # many steps of the other side come before a given step, and the tokens in the band by then.

    def rights_before(step: int) -> int:
        """The number of steps up before the step-th step down."""
        outside = int(below[middle - step + 1]) - bottom
        return bisect_left(below, top - outside, middle, count) - middle

    def after_left(step: int) -> int:
        return int(below[middle + rights_before(step)] - below[middle - step])

    def after_right(step: int) -> int:
        outside = top - int(below[middle + step - 1])
        lefts = middle + 1 - bisect_left(below, bottom + outside, 1, middle + 1)
        return int(below[middle + step] - below[middle - lefts])

    lefts = bisect_right(range(1, middle + 1), budget, key=after_left)
    rights = bisect_right(range(1, count - middle + 1), budget, key=after_right)
    start, stop = middle - lefts, middle + rights
    if lefts + rights < count:
        # The next step does not fit; only the other side may have smaller documents.
        if lefts < middle and rights_before(lefts + 1) == rights:
            stop = bisect_right(below, int(below[start]) + budget, middle) - 1
        else:
            start = bisect_left(below, int(below[stop]) - budget, 0, middle + 1)
    return _Grown((start, stop), lefts, rights)
