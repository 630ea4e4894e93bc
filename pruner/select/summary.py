"""The summary of a job's scores: the part of a report that no selection changes."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from pruner.select.domains import DomainRow, domain_rows
from pruner.select.histogram import BIN_WIDTH, Histogram, count_bins, histogram
from pruner.select.index import Index
from pruner.select.perplexity import perplexity
from pruner.tables.records import Record

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)  # percent
SHORT_TOKENS = 32  # the perplexity of a shorter document says little
_LENGTH_COLUMNS = 24
_PIECE = 1 << 22  # documents counted at a time


class RejectCounts(BaseModel):
    """Rejected documents, and how many have each reason."""

    documents: int
    reasons: dict[str, int]


class Eligible(BaseModel):
    """The documents that selections choose from."""

    documents: int
    tokens: int


class Perplexities(BaseModel):
    """Quantiles of perplexity by percent; None where float64 cannot hold one."""

    quantiles: dict[str, float | None]


class Lengths(BaseModel):
    """Documents by length and perplexity: `documents[i][j]` have token_edges[i] <= tokens < token_edges[i + 1].

    Column j has ln(perplexity) from edges[j] to edges[j + 1]; the first and the last column include all beyond.
    """

    token_edges: list[int]
    edges: list[float]
    documents: list[list[int]]


class Short(BaseModel):
    """Documents of fewer than `under_tokens` tokens."""

    under_tokens: int
    documents: int


class Cut(BaseModel):
    """Documents that do not fit into the context of the reference, in tokens; None: it has no limit."""

    context: int | None
    documents: int


class Equal(BaseModel):
    """Documents whose score equals that of another document, and the size of the largest group of them."""

    documents: int
    largest: int


class AboutPerplexity(BaseModel):
    """The part of a summary about the scores of the reference; empty in a job without."""

    perplexity: Perplexities
    histogram: Histogram
    lengths: Lengths
    short: Short
    cut: Cut
    equal: Equal


class Summary(AboutPerplexity, Record):
    """The summary as stored in summary.json. All but the first three counts are of eligible documents."""

    documents: int
    tokens: int
    training: int
    rejects: RejectCounts
    eligible: Eligible
    domains: list[DomainRow]
    # Absent in records of earlier versions.
    missing_ids: int = 0  # documents without an id, where the corpus names a field for it
    missing_domains: int = 0
    # Documents that selections may choose from without a value, by further scorer:
    lacking: dict[str, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


NO_PERPLEXITY = AboutPerplexity(
    perplexity=Perplexities(quantiles={}),
    histogram=Histogram(bin_width=BIN_WIDTH, edges=[], documents=[], tokens=[]),
    lengths=Lengths(token_edges=[], edges=[], documents=[]),
    short=Short(under_tokens=SHORT_TOKENS, documents=0),
    cut=Cut(context=None, documents=0),
    equal=Equal(documents=0, largest=0),
)


def of_perplexity(index: Index, scorers: Iterable[dict[str, Any]], beat: Callable[[], None]) -> AboutPerplexity:
    """The part about the scores of the reference; `scorers` is what it says of itself."""
    context = min((scorer["context"] for scorer in scorers if scorer.get("context")), default=None)
    fit = index.documents if context is None else count_lengths(index, context, beat)
    return AboutPerplexity(
        perplexity=quantiles(index),
        histogram=key_histogram(index, beat),
        lengths=lengths(index, beat),
        short=Short(under_tokens=SHORT_TOKENS, documents=count_lengths(index, SHORT_TOKENS, beat)),
        cut=Cut(context=context, documents=index.documents - fit),
        equal=equal(index, beat),
    )


def quantiles(index: Index) -> Perplexities:
    """Quantiles of perplexity: each is the perplexity of a document."""
    values = perplexity(np.array([quantile(index.key, percent / 100) for percent in QUANTILES]))
    return Perplexities(
        quantiles={str(percent): float(value) for percent, value in zip(QUANTILES, values, strict=True)}
    )


def key_histogram(index: Index, beat: Callable[[], None]) -> Histogram:
    """The histogram of ln(perplexity)."""
    return histogram([count_bins(key, tokens) for key, tokens in _pieces(index, beat)])


def lengths(index: Index, beat: Callable[[], None]) -> Lengths:
    """Documents by length and perplexity."""
    octaves = [np.unique(_octave(tokens)) for _, tokens in _pieces(index, beat)]
    first, last = int(min(part[0] for part in octaves)), int(max(part[-1] for part in octaves))
    low, high = float(quantile(index.key, 0.001)), float(quantile(index.key, 0.999))
    width = max((high - low) / _LENGTH_COLUMNS, 1e-6)
    cells = np.zeros((last - first + 1) * _LENGTH_COLUMNS, dtype=np.int64)
    for key, tokens in _pieces(index, beat):
        column = np.clip(np.floor((key - low) / width), 0, _LENGTH_COLUMNS - 1).astype(np.int64)
        cells += np.bincount((_octave(tokens) - first) * _LENGTH_COLUMNS + column, minlength=len(cells))
    return Lengths(
        token_edges=[2**octave for octave in range(first, last + 2)],
        edges=[low + j * width for j in range(_LENGTH_COLUMNS + 1)],
        documents=cells.reshape(-1, _LENGTH_COLUMNS).tolist(),
    )


def count_lengths(index: Index, under: int, beat: Callable[[], None]) -> int:
    """The number of documents with fewer than `under` tokens."""
    return sum(int(np.count_nonzero(tokens < under)) for _, tokens in _pieces(index, beat))


def equal(index: Index, beat: Callable[[], None]) -> Equal:
    """Counts equal scores."""
    documents = largest = run = 0  # the last run goes on in the next piece
    last = np.full(1, np.nan)
    for key, _ in _pieces(index, beat):
        starts = np.flatnonzero(key != np.concatenate([last, key[:-1]]))
        if len(starts):
            ended = np.concatenate([[run + starts[0]], np.diff(starts)])
            documents, largest = documents + int(ended[ended > 1].sum()), max(largest, int(ended.max()))
        run = len(key) - int(starts[-1]) if len(starts) else run + len(key)
        last = key[-1:]
    return Equal(documents=documents + (run if run > 1 else 0), largest=max(largest, run))


def domain_table(index: Index) -> list[DomainRow]:
    """Documents, tokens and median perplexity of each domain."""
    sizes = index.domain_sizes
    tokens = np.diff(index.inside_below[index.inside_bounds])
    medians = perplexity(index.inside_key[index.inside_bounds[:-1] + (sizes - 1) // 2])
    if np.isnan(medians).any():  # of a job without a reference
        return domain_rows(index.domain_names, index.domain_order, sizes, tokens)
    return domain_rows(index.domain_names, index.domain_order, sizes, tokens, medians)


def quantile(ordered: np.ndarray, share: float) -> float:
    """The smallest value that at least this share of the values does not exceed, as NumPy's `inverted_cdf`."""
    return float(ordered[max(0, math.ceil(len(ordered) * share - 1))])


def _octave(tokens: np.ndarray) -> np.ndarray:
    return np.asarray(np.frexp(tokens)[1] - 1)  # floor(log2)


def _pieces(index: Index, beat: Callable[[], None]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys and tokens of the documents in the order of their ranks, some at a time."""
    for start in range(0, index.documents, _PIECE):
        key = index.key[start : start + _PIECE]
        yield key, np.diff(index.below[start : start + len(key) + 1])
        beat()
