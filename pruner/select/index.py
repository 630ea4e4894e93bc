"""The index of a job's scores: documents by rank, from which any selection is a slice, counted without sorting again.

Ranks order the N documents that selections choose from by their score key, or as another order says (order.py), equal
ones by (file, row). The arrays `inside_*` hold the documents of each domain together, in the order of their ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import cast

import numpy as np

from pruner.errors import InputError
from pruner.ranks.bands import band, searched_sums
from pruner.select.domain_marks import column_of_domains, count_columns
from pruner.select.domains import DOMAINS_MAX, by_size, domain_rows
from pruner.select.key_limits import joined_limits, limits_of_runs, run_limits
from pruner.select.perplexity import perplexity
from pruner.select.sampled_sums import SampledSums, prefetch_searches
from pruner.select.selection_record import DomainBand, Preview, SelectionCounts
from pruner.select.stored_array import prefetch, release, values_at
from pruner.spec import BY_TOKEN, Order, SelectionSpec

_BEAT_DOMAINS = 1_000  # between two signs of life
_INSIDE_MAX = 3  # domains whose bands are part of a preview


@dataclass(frozen=True)
class Index:
    """The arrays of an index: mapped from disk where the storage is local, else a StoredArray for each large one."""

    below: np.ndarray  # int64 [N + 1], tokens of all documents with a lower rank
    key: np.ndarray  # float64 [N], ln(perplexity) by rank: ascending in the order by token alone
    domain: np.ndarray  # int32 [N], index into domain_names
    place: np.ndarray  # int64 [N], row of the table of scores
    marks: np.ndarray  # int64 [M * columns * 2], documents and tokens below every `step`-th rank: see domain_marks.py
    inside_below: np.ndarray  # int64 [N + 1]
    inside_key: np.ndarray  # float64 [N]
    inside_place: np.ndarray  # int64 [N]
    inside_bounds: np.ndarray  # int64 [domains + 1]
    shards: np.ndarray  # int64 [shards + 1], rows of the table of scores before each shard
    limits: np.ndarray  # float64 [blocks, 2], as of `block_limits` of `key`
    inside_limits: np.ndarray  # the same of `inside_key`
    inside_samples: np.ndarray  # int64, as of `sample` of `inside_below`
    step: int
    columns: int  # of the marks
    domain_names: list[str | None]
    kept: int | None = None  # of an order by stages: the documents that they leave, which have the first ranks
    # By row of the table of scores, int64 [rows], -1 for rows without; None unless the index was just built.
    rank: np.ndarray | None = None
    inside_rank: np.ndarray | None = None  # position in the arrays `inside_*`

    @property
    def documents(self) -> int:
        """N."""
        return len(self.key)

    @property
    def domain_sizes(self) -> np.ndarray:
        """The number of documents of each domain, int64 [domains]."""
        return np.diff(self.inside_bounds)

    @cached_property
    def domain_order(self) -> np.ndarray:
        """The codes of domains in the order of a report, int64 [domains]."""
        return by_size(self.domain_sizes)

    @cached_property
    def _column(self) -> np.ndarray:
        return column_of_domains(self.domain_order, self.columns)

    def preview(self, spec: SelectionSpec, ranks: tuple[int, int] | None = None) -> Preview:
        """What a selection would keep: with `ranks`, the documents of these."""
        made = Preview(**dict(self.counts(spec, ranks=ranks)), inside=self.inside(spec))
        self._release()
        return made

    def counts(
        self,
        spec: SelectionSpec,
        beat: Callable[[], None] = lambda: None,
        ranks: tuple[int, int] | None = None,
    ) -> SelectionCounts:
        """What a selection keeps, exactly; with `ranks`, the documents of these. Calls `beat` now and then."""
        start, stop, columns = None, None, None
        if spec.within is None:
            start, stop = ranks or (band(self.below, spec) if self.kept is None else (0, self.kept))
            counts, columns = self._counts_below(stop) - self._counts_below(start), self._column
            ends = _ends(self.key, self.limits, start, stop, spec.order)
        else:
            counts, ends = self._counts_inside(spec, beat)
        documents, tokens = counts[:, 0], counts[:, 1]
        low, high = _perplexities(ends)
        return SelectionCounts(
            spec=spec,
            documents=int(documents.sum()),
            tokens=int(tokens.sum()),
            perplexity_min=low,
            perplexity_max=high,
            start=None if self.kept is not None else start,
            stop=None if self.kept is not None else stop,
            domains=domain_rows(self.domain_names, self.domain_order, documents, tokens, columns=columns),
        )

    def inside(self, spec: SelectionSpec) -> list[DomainBand]:
        """What a selection within domains keeps of the largest domains, in a report's order; [] for others."""
        bands = []
        for code in self.domain_order[:_INSIDE_MAX].tolist() if spec.within is not None else ():
            first, last = self.inside_bounds[code : code + 2].tolist()
            start, stop = band(self._below_inside(first, last), spec)
            kept = _ends(self.inside_key, self.inside_limits, first + start, first + stop, spec.order)
            ends = _perplexities(kept)
            bands.append(
                DomainBand(
                    domain=self.domain_names[code],
                    documents=last - first,
                    start=start,
                    stop=stop,
                    perplexity_min=ends[0],
                    perplexity_max=ends[1],
                )
            )
        return bands

    def bands_inside(self, first: int, last: int, spec: SelectionSpec) -> tuple[np.ndarray, np.ndarray]:
        """What a selection keeps of domains [first, last): positions in the arrays `inside_*`.

        The first ones, and those after the last ones, int64 [last - first] each.
        """
        bounds = np.asarray(self.inside_bounds[first : last + 1])
        if spec.unit == "tokens":
            ends = pairwise(values_at(self.inside_below, bounds).tolist())
            searched = np.array([searched_sums(*of_domain, spec) for of_domain in ends], dtype=np.int64)
            prefetch_searches(self.inside_below, self.inside_samples, searched.ravel())
        bands = [band(self._below_inside(*of_domain), spec) for of_domain in pairwise(bounds.tolist())]
        start, stop = (np.array(bands, dtype=np.int64) + bounds[:-1, np.newaxis]).T
        return start, stop

    def in_domain(self, row: int, start: int, stop: int) -> tuple[np.ndarray, int]:
        """The documents with ranks [start, stop) inside one domain, as rows of the table of scores; the domain's size.

        The domain is that of a row of a report's `domains`. Returns int64 [stop - start], fewer where the domain has no
        more. Raises InputError if no row names the domain.
        """
        named = self.domain_order[:DOMAINS_MAX]
        if row >= len(named):
            raise InputError(
                f"domain: the report names {len(named):,} domains; give a number from 0 to {len(named) - 1}"
            )
        first, last = self.inside_bounds[[named[row], named[row] + 1]].tolist()
        return np.asarray(self.inside_place[min(first + start, last) : min(first + stop, last)]), last - first

    def _release(self) -> None:
        """Keeps the memory of this process small: what was read of mapped arrays counts as its own."""
        arrays = (self.below, self.key, self.domain, self.marks, self.limits)
        for array in (*arrays, self.inside_below, self.inside_key, self.inside_limits, self.inside_samples):
            release(array)

    def _counts_below(self, rank: int) -> np.ndarray:
        """Documents and tokens of each column of the marks below a rank, int64 [columns, 2]."""
        mark, size = rank // self.step, 2 * self.columns
        first = mark * self.step
        for array, start, stop in (
            (self.marks, mark * size, (mark + 1) * size),
            (self.domain, first, rank),
            (self.below, first, rank + 1),
        ):
            prefetch(array, np.array([start]), np.array([stop]))
        below = np.asarray(self.marks[mark * size : (mark + 1) * size]).reshape(-1, 2)
        domain, tokens = np.asarray(self.domain[first:rank]), np.diff(self.below[first : rank + 1])
        counts = count_columns(self._column[domain], tokens, self.columns)
        counts += below
        return counts

    def _below_inside(self, first: int, last: int) -> np.ndarray:
        """The values [first, last] of `inside_below`."""
        return cast(np.ndarray, SampledSums(self.inside_below, self.inside_samples, first, last + 1))

    def _counts_inside(
        self, spec: SelectionSpec, beat: Callable[[], None]
    ) -> tuple[np.ndarray, tuple[float, float] | None]:
        """Documents and tokens kept of each domain, int64 [domains, 2], and the lowest and highest key among them."""
        counts = np.zeros((len(self.domain_names), 2), dtype=np.int64)
        ends: list[tuple[float, float]] = []
        for code in range(0, len(counts), _BEAT_DOMAINS):
            beat()
            self._release()
            start, stop = self.bands_inside(code, min(code + _BEAT_DOMAINS, len(counts)), spec)
            part = counts[code : code + _BEAT_DOMAINS]
            part[:, 0] = stop - start
            kept = stop > start
            start, stop = start[kept], stop[kept]
            below = values_at(self.inside_below, np.stack([start, stop], axis=1).ravel()).reshape(-1, 2)
            part[kept, 1] = below[:, 1] - below[:, 0]
            found = limits_of_runs(self.inside_key, self.inside_limits, start, stop)
            ends += [found] if found is not None else []
        return counts, joined_limits(ends) if ends else None


def _perplexities(ends: tuple[float, float] | None) -> tuple[float | None, float | None]:
    """The perplexities of the lowest and the highest key; None for none, and in a job without a reference."""
    if ends is None or np.isnan(ends).any():
        return None, None
    low, high = perplexity(np.array(ends)).tolist()
    return low, high


def _ends(key: np.ndarray, limits: np.ndarray, start: int, stop: int, order: Order) -> tuple[float, float] | None:
    """The lowest and the highest ln(perplexity) of the documents with ranks [start, stop), None for no document."""
    if stop <= start:
        return None
    return (key[start], key[stop - 1]) if order == BY_TOKEN else run_limits(key, limits, start, stop)
