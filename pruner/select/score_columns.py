"""The scores of a job as columns of its table of scores: their distributions, and how they rank alike."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pruner.ranks.rank_key import floats
from pruner.select import rank_correlation
from pruner.select.summary import QUANTILES, quantile
from pruner.tables.stored_table import StoredTable

EXACT_MAX = 200_000  # documents whose scores are held in memory; of more, every k-th is, and the others are counted
_CELLS_MAX = 1 << 23  # counters of all pairs of scores together
_BINS_MAX, _BINS_MIN = 256, 16  # of each score, for rank correlations
_EDGES = 40  # bins of a distribution
_CLIPPED = 0.005  # share of the documents beyond each end of a distribution, which its last bins hold
_LOG_RATIO = 5.0  # of the 95th to the 5th percentile, above which a distribution is on a log scale
_SAME = 1e-3  # relative difference of values that are nearly the same
_LARGEST = 1e300  # values are cut here, so that differences are finite


class ScoreColumn(BaseModel):
    """A score: the documents that have it, its quantiles by percent, and the edges of the bins of its distribution."""

    name: str
    documents: int
    minimum: float | None
    maximum: float | None
    quantiles: dict[str, float]
    nearly_constant: bool
    scale: Literal["linear", "log"]
    edges: list[float]  # ascending; the first and the last bin hold all beyond too


class DomainCorrelation(BaseModel):
    """A rank correlation inside a domain; None where a score is constant."""

    domain: str | None
    documents: int
    rank_correlation: float | None


class Correlation(BaseModel):
    """The rank correlation (Spearman) of two scores among the documents that have both, in all and by domain."""

    scores: tuple[str, str]
    documents: int
    rank_correlation: float | None
    domains: list[DomainCorrelation]


class Correlations(BaseModel):
    """The rank correlation of each pair of scores. `bins`: of each score, from whose counts they are; None if exact."""

    method: Literal["exact", "histograms"]
    bins: int | None
    pairs: list[Correlation]


class ScoreColumns(NamedTuple):
    """What the columns of scores hold."""

    scores: list[ScoreColumn]
    correlations: Correlations


class _Piece(NamedTuple):
    """Some documents that selections choose from: values float64 [D, S], NaN for none; domains int64 [D]."""

    values: np.ndarray
    domain: np.ndarray


def measure_scores(
    table: StoredTable, names: Sequence[str], domains: Sequence[str | None], beat: Callable[[], None]
) -> ScoreColumns:
    """Measures the columns `names` of a table of scores, a part at a time, and correlations in `domains` too.

    Up to EXACT_MAX rows all numbers are exact. Of more, quantiles are those of a sample at equal distances, and
    correlations are made of counts of all documents in bins. Calls `beat` for each part. Raises FileNotFoundError.
    """
    step = max(1, -(-table.rows // EXACT_MAX))
    sample, ends = _sample(table, names, domains, step, beat)
    scores = [_column(name, sample.values[:, at], ends[at]) for at, name in enumerate(names)]
    named = list(domains) if len(domains) > 1 else []
    if step == 1:
        return ScoreColumns(scores, _exact(names, sample, named, beat))
    return ScoreColumns(scores, _counted(table, names, sample, named, beat))


def read_values(rows: pa.Table, names: Sequence[str]) -> np.ndarray:
    """The scores of rows, float64 [R, S]; NaN where there is none, and in rows that are in no selection."""
    values = np.stack([floats(rows[name]) for name in names], axis=1)
    values[~np.asarray(pc.and_not(pc.is_null(rows["reject"]), rows["training"]))] = np.nan
    return np.asarray(np.clip(values, -_LARGEST, _LARGEST))


def needed(names: Sequence[str]) -> list[str]:
    """The columns to read for `read_values`."""
    return [*names, "reject", "training"]


class _Ends(NamedTuple):
    documents: int
    minimum: float
    maximum: float


def _read(
    table: StoredTable, names: Sequence[str], domains: Sequence[str | None], beat: Callable[[], None]
) -> Iterator[_Piece]:
    codes = {domain: code for code, domain in enumerate(domains)}
    for part in range(len(table.parts)):
        rows = table.read(part, [*needed(names), "domain"])
        encoded = rows["domain"].combine_chunks().dictionary_encode(null_encoding="encode")
        of_label = np.array([codes.get(label, len(codes)) for label in encoded.dictionary.to_pylist()], dtype=np.int64)
        yield _Piece(read_values(rows, names), of_label[encoded.indices.to_numpy()])
        beat()


def _sample(
    table: StoredTable, names: Sequence[str], domains: Sequence[str | None], step: int, beat: Callable[[], None]
) -> tuple[_Piece, list[_Ends]]:
    """Every `step`-th row, and the number and the ends of all values of each score."""
    kept, row = [], 0
    count = np.zeros(len(names), dtype=np.int64)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for piece in _read(table, names, domains, beat):
        there = ~np.isnan(piece.values)
        count += there.sum(axis=0)
        low = np.fmin(low, np.where(there, piece.values, np.inf).min(axis=0))
        high = np.fmax(high, np.where(there, piece.values, -np.inf).max(axis=0))
        first = -row % step
        kept.append(_Piece(piece.values[first::step].copy(), piece.domain[first::step]))
        row += len(piece.values)
    sample = _Piece(np.concatenate([each.values for each in kept]), np.concatenate([each.domain for each in kept]))
    return sample, [_Ends(*each) for each in zip(count.tolist(), low.tolist(), high.tolist(), strict=True)]


def _column(name: str, values: np.ndarray, ends: _Ends) -> ScoreColumn:
    ordered = np.sort(values[~np.isnan(values)])
    if not ends.documents or not len(ordered):
        nothing: dict[str, float] = {}
        return ScoreColumn(
            name=name,
            documents=ends.documents,
            minimum=None,
            maximum=None,
            quantiles=nothing,
            nearly_constant=False,
            scale="linear",
            edges=[],
        )
    low, high = quantile(ordered, _CLIPPED), quantile(ordered, 1 - _CLIPPED)
    inner, outer = quantile(ordered, 0.05), quantile(ordered, 0.95)
    log = low > 0 and outer / inner > _LOG_RATIO
    exact = {0: ends.minimum, 100: ends.maximum}
    return ScoreColumn(
        name=name,
        documents=ends.documents,
        minimum=ends.minimum,
        maximum=ends.maximum,
        quantiles={str(percent): exact.get(percent, quantile(ordered, percent / 100)) for percent in QUANTILES},
        nearly_constant=outer - inner <= _SAME * max(abs(inner), abs(outer)),
        scale="log" if log else "linear",
        edges=_edges(ordered, low, high, log=log),
    )


def _edges(ordered: np.ndarray, low: float, high: float, *, log: bool) -> list[float]:
    """Edges of a distribution: around each number where they are few whole ones, else of equal width."""
    few = ordered[-1] - ordered[0] < _EDGES and np.array_equal(ordered, np.round(ordered))
    if few:
        return [float(value) for value in np.arange(ordered[0] - 0.5, ordered[-1] + 1)]
    if high <= low:
        low, high = low - 0.5 * max(abs(low), 1e-6), low + 0.5 * max(abs(low), 1e-6)
    if log:
        return [float(value) for value in np.geomspace(low, high, _EDGES + 1)]
    return [float(value) for value in np.linspace(low, high, _EDGES + 1)]


Found = dict[tuple[int, int], tuple[int, float | None]]  # by pair of columns: documents, and their correlation


def _exact(
    names: Sequence[str], sample: _Piece, domains: Sequence[str | None], beat: Callable[[], None]
) -> Correlations:
    inside = []
    for code in range(len(domains)):
        inside.append(rank_correlation.of_values(sample.values[sample.domain == code]))
        beat()
    beat()
    return _correlations(names, None, rank_correlation.of_values(sample.values), domains, inside)


def _counted(
    table: StoredTable, names: Sequence[str], sample: _Piece, domains: Sequence[str | None], beat: Callable[[], None]
) -> Correlations:
    """From counts of all documents in bins, whose edges are quantiles of a sample."""
    pairs, groups = list(combinations(range(len(names)), 2)), len(domains) + 1
    bins = math.isqrt(_CELLS_MAX // max(1, len(pairs) * groups))
    bins = min(max(bins, _BINS_MIN), _BINS_MAX)
    edges = [_quantile_edges(column, bins) for column in sample.values.T]
    counts = {pair: np.zeros(groups * bins * bins, dtype=np.int64) for pair in pairs}
    for piece in _read(table, names, domains, beat):
        there = ~np.isnan(piece.values)
        code = [np.searchsorted(edge, piece.values[:, i], side="right") for i, edge in enumerate(edges)]
        for i, j in pairs:
            both = there[:, i] & there[:, j]
            cell = (piece.domain[both] * bins + code[i][both]) * bins + code[j][both]
            counts[i, j] += np.bincount(cell, minlength=groups * bins * bins)
            beat()
    shaped = {pair: found.reshape(groups, bins, bins) for pair, found in counts.items()}
    whole = {pair: rank_correlation.of_counts(found.sum(axis=0)) for pair, found in shaped.items()}
    inside = [
        {pair: rank_correlation.of_counts(found[code]) for pair, found in shaped.items()}
        for code in range(len(domains))
    ]
    return _correlations(names, bins, whole, domains, inside)


def _quantile_edges(values: np.ndarray, bins: int) -> np.ndarray:
    """Edges of at most so many bins with about as many documents each; a value of many documents has its own bin."""
    ordered = np.sort(values[~np.isnan(values)])
    if not len(ordered):
        return ordered
    found = np.unique(ordered[np.linspace(0, len(ordered), bins)[1:-1].astype(np.int64)])
    first, last = (np.searchsorted(ordered, found, side=side) for side in ("left", "right"))
    many = (last - first >= 2 * len(ordered) / bins) & (last < len(ordered))
    return np.unique(np.concatenate([found, ordered[last[many]]]))


def _correlations(
    names: Sequence[str], bins: int | None, whole: Found, domains: Sequence[str | None], inside: Sequence[Found]
) -> Correlations:
    pairs = [
        Correlation(
            scores=(names[pair[0]], names[pair[1]]),
            documents=documents,
            rank_correlation=value,
            domains=[
                DomainCorrelation(domain=domain, documents=found[pair][0], rank_correlation=found[pair][1])
                for domain, found in zip(domains, inside, strict=True)
            ],
        )
        for pair, (documents, value) in whole.items()
    ]
    return Correlations(method="exact" if bins is None else "histograms", bins=bins, pairs=pairs)
