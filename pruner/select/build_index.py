"""Builds an index in memory: collects the documents that selections choose from, and sorts them once."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pruner.select.index import Index, count_domains
from pruner.select.perplexity import score_key
from pruner.select.score_table import eligible_rows

_MARKS_MAX = 1_024  # so many ranks have their counts by domain stored
_MARK_NUMBERS_MAX = 4_000_000  # of the marks of all domains


class RankKey(NamedTuple):
    """What documents are ranked by: `of` gives numbers [D] of D rows of the table of scores with these columns.

    Documents without a value in the column `needs` have no rank.
    """

    columns: tuple[str, ...]
    of: Callable[[pa.Table], np.ndarray]
    needs: str | None = None


class IndexBuilder:
    """Collects eligible documents from the table of scores: 24 bytes each, and 8 more with a rank key."""

    def __init__(self, rank_key: RankKey | None = None) -> None:
        """Ranks by the score key, or by another key."""
        self._rank_key = rank_key
        self._rows = 0
        self._keys: list[np.ndarray] = []
        self._ranked_by: list[np.ndarray] = []
        self._tokens: list[np.ndarray] = []
        self._domains: list[np.ndarray] = []
        self._places: list[np.ndarray] = []
        self._codes: dict[str | None, int] = {}
        self.eligible = 0

    def add(self, rows: pa.Table) -> None:
        """Adds the next rows of the table of scores."""
        eligible = eligible_rows(rows)
        if self._rank_key is not None and self._rank_key.needs is not None:
            eligible = eligible & rows[self._rank_key.needs].is_valid().to_numpy()
        columns = ("nll", "n_tokens", "domain", *(self._rank_key.columns if self._rank_key else ()))
        chosen = rows.select(list(dict.fromkeys(columns))).filter(pa.array(eligible))
        n_tokens = pc.fill_null(chosen["n_tokens"], 0).to_numpy()  # null in a job without a reference
        encoded = chosen["domain"].combine_chunks().dictionary_encode(null_encoding="encode")
        codes = [self._codes.setdefault(name, len(self._codes)) for name in encoded.dictionary.to_pylist()]
        with np.errstate(invalid="ignore"):
            self._keys.append(score_key(chosen["nll"].to_numpy(), n_tokens))
        if self._rank_key is not None:
            self._ranked_by.append(self._rank_key.of(chosen))
        self._tokens.append(n_tokens.astype(np.int32))
        self._domains.append(np.array(codes, dtype=np.int32)[encoded.indices.to_numpy()])
        self._places.append(self._rows + np.flatnonzero(eligible))
        self._rows += len(rows)
        self.eligible += len(chosen)

    def build(self, shard_rows: list[int], beat: Callable[[], None]) -> Index:
        """Sorts the documents; the builder is empty then. `shard_rows` are the rows of each shard, in plan order.

        Calls `beat` between the steps.
        """
        unsorted = _joined(self._keys)
        order = np.argsort(_joined(self._ranked_by) if self._rank_key else unsorted, kind="stable")
        beat()
        key = unsorted[order]
        del unsorted
        tokens = _joined(self._tokens)[order]
        domain = _joined(self._domains)[order]
        beat()
        place = _joined(self._places)[order]
        del order
        beat()
        inside = np.argsort(domain, kind="stable")
        beat()
        inside_key, inside_place = key[inside], place[inside]
        beat()
        inside_below = _sums(tokens[inside])
        del inside
        beat()
        size = len(self._codes)
        step = _step(len(key), size)
        return Index(
            below=_sums(tokens),
            key=key,
            domain=domain,
            place=place,
            marks=_marks(domain, tokens, size, step, beat),
            inside_below=inside_below,
            inside_key=inside_key,
            inside_place=inside_place,
            inside_bounds=_sums(np.bincount(domain, minlength=size)),
            shards=_sums(np.array(shard_rows, dtype=np.int64)),
            step=step,
            domain_names=list(self._codes),
        )


def _joined(pieces: list[np.ndarray]) -> np.ndarray:
    """The concatenated pieces, of which none are kept."""
    joined = np.concatenate(pieces)
    pieces.clear()
    return joined


def _step(documents: int, domains: int) -> int:
    marks = max(1, min(_MARKS_MAX, _MARK_NUMBERS_MAX // (2 * domains)))
    return max(1, -(-documents // marks))


def _marks(domain: np.ndarray, tokens: np.ndarray, size: int, step: int, beat: Callable[[], None]) -> np.ndarray:
    marks = [np.zeros((size, 2), dtype=np.int64)]
    for first in range(0, len(domain), step):
        marks.append(marks[-1] + count_domains(domain[first : first + step], tokens[first : first + step], size))
        beat()
    return np.stack(marks)


def _sums(values: np.ndarray) -> np.ndarray:
    """The sums of the values before each, and of all: int64 [D + 1]."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:], dtype=np.int64)
    return sums
