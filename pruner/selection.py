"""The exact selections: which documents, ordered by perplexity, a criterion keeps at a rate."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pruner.specs import SelectionSpec


@dataclass(frozen=True)
class Selected:
    """The documents that a selection keeps. `kept` int64, ascending; `percentile` float64, 100 · rank / N of each."""

    kept: np.ndarray
    percentile: np.ndarray


def select(nll: np.ndarray, n_tokens: np.ndarray, spec: SelectionSpec, domains: np.ndarray | None = None) -> Selected:
    """Selects among N documents.

    nll float64 [N] and n_tokens int64 [N] in the order of (file, row); domains int [N], a code for each document, for
    selections within a domain, whose ranks and N are then those of the document's domain. Documents are ordered by
    nll / n_tokens, equal ones by their place in the arrays.
    """
    key = nll / n_tokens
    if spec.within is None:
        order = np.argsort(key, kind="stable")
        bounds = np.array([0, len(key)])
    else:
        if domains is None:
            raise ValueError("a selection within domains needs the documents' domains")
        order = np.lexsort((key, domains))
        starts = np.flatnonzero(np.diff(domains[order], prepend=domains[order][:1] - 1))
        bounds = np.append(starts, len(key))
    rate = Fraction(repr(spec.rate))  # the decimal that the user wrote, not its nearest binary fraction
    tokens = n_tokens[order]
    kept: list[np.ndarray] = []
    percentile: list[np.ndarray] = []
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        count = last - first
        band = documents_band if spec.unit == "documents" else tokens_band
        start, stop = band(tokens[first:last], spec.criterion, rate)
        kept.append(order[first + start : first + stop])
        percentile.append(100.0 * np.arange(start, stop) / max(1, count))
    chosen, percentiles = np.concatenate(kept), np.concatenate(percentile)
    ascending = np.argsort(chosen)
    return Selected(chosen[ascending].astype(np.int64), percentiles[ascending])


def documents_band(tokens: np.ndarray, criterion: str, rate: Fraction) -> tuple[int, int]:
    """Ranks [start, stop) that hold `rate` of the documents, rounded half up."""
    count = len(tokens)
    keep = (2 * rate.numerator * count + rate.denominator) // (2 * rate.denominator)
    start = {"low": 0, "medium": (count - keep) // 2, "high": count - keep}[criterion]
    return start, start + keep


def tokens_band(tokens: np.ndarray, criterion: str, rate: Fraction) -> tuple[int, int]:
    """Ranks [start, stop) of the longest run whose tokens do not exceed `rate` of all; tokens int64 [N] by rank.

    low grows from the bottom, high from the top. medium starts at the document that holds the middle token and takes
    the neighbour on the side that has more tokens outside the band, or as many and is the lower one; when that one
    does not fit, the other side goes on alone.
    """
    below = np.concatenate(([0], np.cumsum(tokens)))  # tokens under each rank
    total = int(below[-1])
    budget = rate.numerator * total // rate.denominator
    if criterion == "low":
        return 0, int(np.searchsorted(below, budget, side="right")) - 1
    if criterion == "high":
        return int(np.searchsorted(below, total - budget, side="left")), len(tokens)
    return _medium_tokens_band(tokens, below, total, budget)


def _medium_tokens_band(tokens: np.ndarray, below: np.ndarray, total: int, budget: int) -> tuple[int, int]:
    middle = min(int(np.searchsorted(2 * below[1:], total, side="right")), len(tokens) - 1)
    # The order in which neighbours are taken merges two falling sequences: what is outside on the left before each
    # step to the left, and on the right before each step to the right; where they are equal the left comes first.
    left, right = below[middle:0:-1], total - below[middle:-1]
    left_place = np.arange(len(left)) + np.searchsorted(-right, -left, side="left")
    right_place = np.arange(len(right)) + np.searchsorted(-left, -right, side="right")
    steps = np.empty(len(tokens), dtype=np.int64)
    steps[left_place] = tokens[:middle][::-1]
    steps[right_place] = tokens[middle:]
    taken = int(np.searchsorted(np.cumsum(steps), budget, side="right"))
    start = middle - int(np.searchsorted(left_place, taken))
    stop = middle + int(np.searchsorted(right_place, taken))
    if taken < len(steps):
        # The next step was too large; only the side that it was not on may have smaller ones.
        if bool(np.any(left_place == taken)):
            stop = int(np.searchsorted(below, below[start] + budget, side="right")) - 1
        else:
            start = int(np.searchsorted(below, below[stop] - budget, side="left"))
    return start, stop
