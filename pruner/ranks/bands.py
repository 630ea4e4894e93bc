"""Bands: the exact ranks that a selection keeps, from cumulative token counts in the order of the ranks."""

from bisect import bisect_right
from fractions import Fraction
from functools import lru_cache

import numpy as np

from pruner.spec import Rule


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


def _tokens_band(below: np.ndarray, criterion: str, rate: Fraction) -> tuple[int, int]:
    """Ranks [start, stop) of the longest run whose tokens do not exceed `rate` of all.

    `low` and `random` grow from the bottom, `high` from the top.
    """
    if len(below) == 1:
        return 0, 0
    bottom, top = int(below[0]), int(below[-1])
    budget = rate.numerator * (top - bottom) // rate.denominator
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
    under, over = below[: middle + 1], below[middle:count]
    # Neighbours are added in the order of a merge of two falling sequences: the tokens left outside below before each
    # step down, and above before each step up; at equal values the step down comes first. So a binary search finds how
    # many steps of the other side come before a given step, and the tokens in the band by then.

    def rights_before(step: int) -> int:
        """The number of steps up before the step-th step down."""
        outside = int(below[middle - step + 1]) - bottom
        return int(np.searchsorted(over, top - outside, side="left"))

    def after_left(step: int) -> int:
        return int(below[middle + rights_before(step)] - below[middle - step])

    def after_right(step: int) -> int:
        outside = top - int(below[middle + step - 1])
        lefts = middle + 1 - int(np.searchsorted(under, bottom + outside, side="left"))
        return int(below[middle + step] - below[middle - lefts])

    lefts = bisect_right(range(1, middle + 1), budget, key=after_left)
    rights = bisect_right(range(1, count - middle + 1), budget, key=after_right)
    start, stop = middle - lefts, middle + rights
    if lefts + rights < count:
        # The next step does not fit; only the other side may have smaller documents.
        if lefts < middle and rights_before(lefts + 1) == rights:
            stop = int(np.searchsorted(below, below[start] + budget, side="right")) - 1
        else:
            start = int(np.searchsorted(below, below[stop] - budget, side="left"))
    return start, stop
