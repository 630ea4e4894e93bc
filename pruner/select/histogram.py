"""The histogram of ln(perplexity): documents and tokens in bins of equal width, from counts that can be added up."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.select.perplexity import score_key
from pruner.tables.storage import Storage

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


def bin_numbers(key: np.ndarray, bin_width: float = BIN_WIDTH) -> np.ndarray:
    """The bin of each key, int64 [D]: bin i reaches from i to i + 1 times `bin_width`, a multiple of BIN_WIDTH."""
    return np.asarray(np.floor(key / BIN_WIDTH).astype(np.int64) // round(bin_width / BIN_WIDTH))


def count_bins(key: np.ndarray, tokens: np.ndarray) -> BinCounts:
    """Counts documents: key float64 [D], their ln(perplexity); tokens int [D]."""
    return _sum(bin_numbers(key), np.ones(len(key), dtype=np.int64), tokens)


class Trained(NamedTuple):
    """Which documents of a shard train the reference: those of a split. `documents_path` is the shard's part."""

    split: Split
    shard: ShardRows
    documents_path: str


def count_shard(storage: Storage, path: str, trained: Trained | None) -> BinCounts:
    """Counts the scored documents of a shard's score file, without those that train the reference."""
    table = _columns(storage, path, "n_tokens", "nll")
    there = np.asarray(table["nll"].is_valid())
    if trained is not None:
        places = _columns(storage, trained.documents_path, "file", "row")
        there = there & ~in_split(trained.split, trained.shard, *(column.to_numpy() for column in places.columns))
    nll, tokens = (table[name].to_numpy()[there] for name in ("nll", "n_tokens"))
    return count_bins(score_key(nll, tokens), tokens.astype(np.int64))


def _columns(storage: Storage, path: str, *names: str) -> pa.Table:
    with storage.open(path) as source:
        return pq.read_table(source, columns=list(names))


class ScoredRows(NamedTuple):
    """Rows of a shard: file and row int [rows], counted from its first ones, and whether each has text, bool [rows].

    Of the D with text n_tokens int [D], and nll float64 [D], NaN without a score.
    """

    file: np.ndarray
    row: np.ndarray
    has_text: np.ndarray
    n_tokens: np.ndarray
    nll: np.ndarray


class BinsSoFar:
    """Counts of a shard's scored documents while it is scored, without those of the train split."""

    def __init__(self, shard: ShardRows, split: Split | None) -> None:
        self._shard, self._split = shard, split
        self._counts = count_bins(np.empty(0), np.empty(0, np.int64))

    def append(self, rows: ScoredRows) -> None:
        """Adds the next rows."""
        self._counts = _add(self._counts, self._count(rows))

    def bins(self, further: Iterable[ScoredRows] = ()) -> dict[int, tuple[int, int]]:
        """Documents and tokens by bin of all rows so far, and of the rows after them, which are not added."""
        counts = self._counts
        for rows in further:
            counts = _add(counts, self._count(rows))
        columns = (column.tolist() for column in counts)
        return {number: (documents, size) for number, documents, size in zip(*columns, strict=True)}

    def _count(self, rows: ScoredRows) -> BinCounts:
        file, row, has_text, n_tokens, nll = rows
        chosen = np.isfinite(nll) & (n_tokens > 0)
        if self._split is not None:
            chosen &= ~in_split(self._split, self._shard, file[has_text], row[has_text])
        tokens = n_tokens[chosen].astype(np.int64)
        return count_bins(score_key(nll[chosen], tokens), tokens)


def _add(first: BinCounts, second: BinCounts) -> BinCounts:
    return _sum(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


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
