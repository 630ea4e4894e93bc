"""The index of a job's scores: documents by rank, from which any selection is a slice, counted without sorting again.

Ranks order the N documents that selections choose from by their score key, or as another order says (order.py), equal
ones by (file, row). The arrays `inside_*` hold the documents of each domain together, in the order of their ranks.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import cast

import numpy as np

from pruner.errors import InputError
from pruner.ranks.bands import band, searched_sums
from pruner.select import key_limits
from pruner.select.domain_marks import column_of_domains, count_columns
from pruner.select.domains import DOMAINS_MAX, by_size, domain_rows
from pruner.select.key_limits import block_limits, limits_of_runs, run_limits
from pruner.select.perplexity import perplexity
from pruner.select.sampled_sums import SampledSums, prefetch_searches, sample
from pruner.select.selection_record import DomainBand, Preview, SelectionCounts
from pruner.select.stored_array import StoredArray, map_array, prefetch, read_at_random, release, values_at
from pruner.spec import BY_TOKEN, Order, SelectionSpec
from pruner.tables.records import Record, read_record, write_record
from pruner.tables.storage import Storage

FOLDER = "ranks"
PERCENTILE = "percentile"  # an array beside those of an order by stages, float64 [rows of the table of scores]
_WRITE_BYTES = 64 << 20  # of an array, written at a time
_WHOLE_BYTES = 2 << 20  # of an array in a remote storage, up to which it is read at once
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
            tokens = values_at(self.inside_below, np.concatenate([start, stop]))
            part[kept, 1] = tokens[len(start) :] - tokens[: len(start)]
            found = limits_of_runs(self.inside_key, self.inside_limits, start, stop)
            ends += [found] if found is not None else []
        return counts, (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


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


def read_shard_rows(storage: Storage, folder: str) -> np.ndarray:
    """The rows of the table of scores before each shard, int64 [shards + 1]. Raises FileNotFoundError."""
    data = io.BytesIO(storage.read_bytes(f"{folder}/{FOLDER}/shards.npy"))
    return np.asarray(np.load(data, allow_pickle=False))


def read_kept(storage: Storage, folder: str) -> int:
    """The number of documents that stages leave, of an index in such an order. Raises as `read_domain_names` does."""
    return read_record(storage, f"{folder}/{FOLDER}/ranks.json", _IndexRecord).kept or 0


def read_domain_names(storage: Storage, folder: str) -> list[str | None]:
    """The domains of an index, by their codes. Raises FileNotFoundError, and InputError for another format version."""
    return read_record(storage, f"{folder}/{FOLDER}/ranks.json", _IndexRecord).domains


class _IndexRecord(Record):
    """What an index holds beside its arrays."""

    step: int
    domains: list[str | None]
    kept: int | None = None  # as of Index
    columns: int | None = None  # of the marks; None in an index of an earlier version, which has one for each domain


_ARRAYS = (
    "below",
    "key",
    "domain",
    "place",
    "marks",
    "inside_below",
    "inside_key",
    "inside_place",
    "inside_bounds",
    "shards",
)
_SMALL = {"inside_bounds", "shards", "limits", "inside_limits", "inside_samples"}
_BLOCKS = {  # arrays, those that they tell of by blocks, and what makes and how
    "limits": ("key", block_limits),
    "inside_limits": ("inside_key", block_limits),
    "inside_samples": ("inside_below", sample),
}
_RANKS = {"rank": "place", "inside_rank": "inside_place"}  # arrays by row, and those by rank that they invert


def write_arrays(storage: Storage, folder: str, index: Index, beat: Callable[[], None]) -> None:
    """Writes an index that was just built into `folder`/ranks: a .npy file for each array, then ranks.json."""
    for name in (*_ARRAYS, *_BLOCKS, *_RANKS):
        write_array(storage, folder, name, getattr(index, name), beat)
    record = _IndexRecord(step=index.step, domains=index.domain_names, kept=index.kept, columns=index.columns)
    write_record(storage, f"{folder}/{FOLDER}/ranks.json", record)


def write_array(storage: Storage, folder: str, name: str, array: np.ndarray, beat: Callable[[], None]) -> None:
    """Writes an array beside those of the index in `folder`."""
    array = np.ascontiguousarray(array)
    with storage.create(array_path(folder, name)) as file:
        # Not np.save: its own file access does not tell a full disk from other errors.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        data = array.reshape(-1).view(np.uint8).data
        for start in range(0, len(data), _WRITE_BYTES):
            file.write(data[start : start + _WRITE_BYTES])
            beat()


def read_index(storage: Storage, folder: str) -> Index:
    """Reads the index in `folder`. Raises FileNotFoundError, and InputError if it has another format version.

    The arrays, of 52 bytes a document, stay where they are: what is asked for is read.
    """
    record = read_record(storage, f"{folder}/{FOLDER}/ranks.json", _IndexRecord)
    arrays = {name: read_array(storage, folder, name) for name in _ARRAYS}
    for name, (of, make) in _BLOCKS.items():
        # An index of an earlier version has none, or those of larger blocks.
        found = read_array(storage, folder, name) if storage.exists(array_path(folder, name)) else np.empty(0)
        arrays[name] = found if len(found) == key_limits.block_count(len(arrays[of])) else make(arrays[of])
    for array in arrays.values():
        read_at_random(array)
    domains, marks = record.domains, arrays["marks"]
    if isinstance(marks, np.ndarray) and marks.ndim > 1:  # of an earlier version
        arrays["marks"] = marks.reshape(-1)
    columns = len(domains) if record.columns is None else record.columns
    return Index(**arrays, step=record.step, columns=columns, domain_names=domains, kept=record.kept)


def read_array(storage: Storage, folder: str, name: str) -> np.ndarray:
    """An array of the index in `folder`, as those of `read_index`. Raises FileNotFoundError."""
    path = array_path(folder, name)
    local = storage.local(path)
    if local is not None:
        return map_array(local)
    if name in _SMALL or storage.size(path) <= _WHOLE_BYTES:
        return np.asarray(np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False))
    return cast(np.ndarray, StoredArray(storage, path))  # as much of an array as is used of one


def row_ranks(storage: Storage, folder: str, *, inside: bool) -> Callable[[int, int], np.ndarray]:
    """A function of the ranks of rows [start, stop) of the table of scores, int64, -1 for rows without one.

    With `inside` they are positions in the arrays `inside_*`. Only what is asked for is read. Raises FileNotFoundError.
    """
    name = "inside_rank" if inside else "rank"
    try:
        return StoredArray(storage, array_path(folder, name)).read
    except FileNotFoundError:  # an index of an earlier version has none
        places = read_array(storage, folder, _RANKS[name])
    ranks = np.full(int(read_array(storage, folder, "shards")[-1]), -1, dtype=np.int64)
    ranks[np.asarray(places)] = np.arange(len(places))
    return lambda start, stop: ranks[start:stop]


def array_path(folder: str, name: str) -> str:
    """The file of an array of the index in `folder`."""
    return f"{folder}/{FOLDER}/{name}.npy"
