"""What a selection keeps of each bin of a histogram, counted by ranks."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pruner.select.histogram import Histogram, bin_numbers
from pruner.select.index import Index
from pruner.select.stored_array import prefetch, release
from pruner.spec import SelectionSpec

COUNTED_MAX = 4_000_000  # documents whose keys are read at once: some 50 ms


class KeptBins(NamedTuple):
    """Kept documents and tokens by bin, lists of one length."""

    documents: list[int]
    tokens: list[int]


def kept_of_run(documents: Sequence[int], tokens: Sequence[int], below: np.ndarray, start: int, stop: int) -> KeptBins:
    """What the ranks [start, stop) keep of bins that hold consecutive ranks, all documents together.

    documents and tokens are those of each bin, in the order of the ranks; below int64 [N + 1], the tokens of all
    documents with a lower rank, of which only those at the two ends are read.
    """
    kept = KeptBins([], [])
    first = 0
    for count, size in zip(documents, tokens, strict=True):
        low, high = max(first, start), min(first + count, stop)
        whole = high - low == count
        kept.documents.append(max(0, high - low))
        kept.tokens.append(0 if high <= low else size if whole else int(below[high]) - int(below[low]))
        first += count
    return kept


def kept_by_key(index: Index, spec: SelectionSpec, ranks: tuple[int, int], histogram: Histogram) -> KeptBins:
    """What a selection keeps of the bins of ln(perplexity), whatever its order: the key of each kept document is read.

    `ranks`: those that it keeps, [start, stop); a selection within domains keeps ranks of its own in each.
    """
    bins = np.zeros((2, len(histogram.documents)), dtype=np.int64)
    first = round(histogram.edges[0] / histogram.bin_width)
    for key, below in _runs(index, spec, ranks):
        found = np.clip(bin_numbers(key, histogram.bin_width) - first, 0, bins.shape[1] - 1)
        bins[0] += np.bincount(found, minlength=bins.shape[1])
        sums = np.bincount(found, np.diff(below), bins.shape[1])  # in float64, which are exact below 2^53
        bins[1] += sums.astype(np.int64)
    for array in (index.below, index.key, index.inside_below, index.inside_key):
        release(array)
    return KeptBins(bins[0].tolist(), bins[1].tolist())


def _runs(index: Index, spec: SelectionSpec, ranks: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys float64 [R] of the kept documents, and int64 [R + 1] the tokens below each and below the end."""
    if spec.within is None:
        key, below = index.key, index.below
        start, stop = np.array([ranks[0]]), np.array([ranks[1]])
    else:
        key, below = index.inside_key, index.inside_below
        start, stop = index.bands_inside(0, len(index.domain_names), spec)
    prefetch(key, start, stop)
    prefetch(below, start, stop + 1)
    for first, last in zip(start.tolist(), stop.tolist(), strict=True):
        if last > first:
            yield np.asarray(key[first:last]), np.asarray(below[first : last + 1])
