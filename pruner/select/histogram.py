"""The histogram of ln(perplexity): documents and tokens in bins of equal width, from counts that can be added up."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

BIN_WIDTH = 0.05  # nats per token
_BINS_MAX = 2_000  # for more, bins are made wider by an integer factor


class Histogram(BaseModel):
    """Bin i reaches from edges[i] to edges[i + 1]; the edges are integer multiples of `bin_width`."""

    of: str = "ln(perplexity), nats a token"
    bin_width: float
    edges: list[float]
    documents: list[int]
    tokens: list[int]


class BinCounts(NamedTuple):
    """Documents and tokens by bin, int64 arrays of one length. Bin i reaches from i to i + 1 times BIN_WIDTH."""

    bins: np.ndarray
    documents: np.ndarray
    tokens: np.ndarray


def count_bins(key: np.ndarray, tokens: np.ndarray) -> BinCounts:
    """Counts documents: key float64 [D], their ln(perplexity); tokens int [D]."""
    return _sum(np.floor(key / BIN_WIDTH).astype(np.int64), np.ones(len(key), dtype=np.int64), tokens)


def histogram(parts: Sequence[BinCounts]) -> Histogram:
    """The histogram of the sum of counts, of which at least one must not be empty."""
    bins, documents, tokens = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    factor = max(1, -(-int(np.ptp(bins)) // _BINS_MAX))
    total = _sum(bins // factor, documents, tokens)
    first, width = int(total.bins[0]), BIN_WIDTH * factor
    size = int(total.bins[-1]) - first + 1
    counts = np.zeros((2, size), dtype=np.int64)
    counts[:, total.bins - first] = total.documents, total.tokens
    return Histogram(
        bin_width=width,
        edges=[round((first + i) * width, 9) for i in range(size + 1)],
        documents=counts[0].tolist(),
        tokens=counts[1].tolist(),
    )


def _sum(bins: np.ndarray, documents: np.ndarray, tokens: np.ndarray) -> BinCounts:
    unique, index = np.unique(bins, return_inverse=True)
    sums = np.zeros((2, len(unique)), dtype=np.int64)
    np.add.at(sums[0], index, documents)
    np.add.at(sums[1], index, tokens)
    return BinCounts(unique, sums[0], sums[1])
