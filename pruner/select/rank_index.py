"""Counts by rank: what any selection would keep, to the document, without reading the scores again.

A folder of arrays, written with the table of scores. Ranks order the N documents that selections choose from by
perplexity; the arrays `inside_*` hold each domain's documents together, and in it by perplexity.
"""

import io
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from pruner.errors import InputError
from pruner.report import DOMAINS_MAX, domain_rows, exp, largest
from pruner.select.bands import band
from pruner.spec import SelectionSpec
from pruner.tables.score_table import Eligible
from pruner.tables.storage import Storage

FOLDER = "ranks"
_MARKS = 1_024  # places between which documents are counted one by one, at most
_MARKS_NUMBERS = 4_000_000  # that the marks of all domains may have together
_INSIDE = 3  # domains whose own bands a preview says

_ARRAYS = (
    "below",  # int64 [N + 1], tokens under each rank
    "key",  # float64 [N], ln(perplexity)
    "domain",  # int32 [N], index into the names
    "place",  # int64 [N], row of the score table
    "marks",  # int64 [M, domains, 2], documents and tokens of each domain under every `step`-th rank
    "inside_below",  # int64 [N + 1]
    "inside_key",  # float64 [N]
    "inside_bounds",  # int64 [domains + 1]
    "shards",  # int64 [shards + 1], rows of the score table before each shard's
)


def write_ranks(storage: Storage, folder: str, eligible: Eligible, shard_rows: list[int]) -> None:
    """Writes the arrays into `folder`/ranks. `shard_rows` are the rows of each shard, in plan order."""
    key = eligible.nll / eligible.n_tokens
    size = len(eligible.domain_names)
    order = np.argsort(key, kind="stable")
    inside = order[np.argsort(eligible.domains[order], kind="stable")]
    domain, tokens = eligible.domains[order], eligible.n_tokens[order]
    step = _step(len(key), size)
    made = {
        "below": _sums(tokens),
        "key": key[order],
        "domain": domain,
        "place": eligible.places[order],
        "marks": _marks(domain, tokens, size, step),
        "inside_below": _sums(eligible.n_tokens[inside]),
        "inside_key": key[inside],
        "inside_bounds": _sums(np.bincount(domain, minlength=size)),
        "shards": _sums(np.array(shard_rows, dtype=np.int64)),
    }
    for name in _ARRAYS:
        array = np.ascontiguousarray(made[name])
        with storage.create(f"{folder}/{FOLDER}/{name}.npy") as file:
            # Not np.save, whose own way to a file does not tell a full disk from other errors.
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            file.write(array.data)
    storage.write_json(f"{folder}/{FOLDER}/ranks.json", {"domains": eligible.domain_names, "step": step})


@dataclass(frozen=True)
class Ranks:
    """The arrays of a job, as `_ARRAYS` says; mapped from the disk where they are on one."""

    below: np.ndarray
    key: np.ndarray
    domain: np.ndarray
    place: np.ndarray
    marks: np.ndarray
    inside_below: np.ndarray
    inside_key: np.ndarray
    inside_bounds: np.ndarray
    shards: np.ndarray
    step: int
    domain_names: list[str | None]

    @property
    def documents(self) -> int:
        """N."""
        return len(self.key)

    def preview(self, spec: SelectionSpec) -> dict[str, Any]:
        """What a selection would keep: `selection_report` of it, and of one within domains what `inside` says."""
        start, stop = None, None
        if spec.within is None:
            start, stop = band(self.below, spec)
            counts = self._under(stop) - self._under(start)
            ends = (self.key[start], self.key[stop - 1]) if stop > start else None
        else:
            counts, ends = self._inside(spec)
        documents, tokens = counts[:, 0], counts[:, 1]
        low, high = exp(np.array(ends)).tolist() if ends is not None else (None, None)
        everywhere = np.diff(self.inside_bounds)
        return {
            "id": spec.id,
            **spec.model_dump(),
            "documents": int(documents.sum()),
            "tokens": int(tokens.sum()),
            "perplexity_min": low,
            "perplexity_max": high,
            "domains": domain_rows(self.domain_names, everywhere, documents, tokens),
            "start": start,
            "stop": stop,
            "inside": self.inside(spec),
        }

    def inside(self, spec: SelectionSpec) -> list[dict[str, Any]]:
        """What a selection within domains keeps of each of the largest, in a report's order; of another nothing.

        Of each its `documents`, the ranks [`start`, `stop`) among these, and the perplexities at both ends (None if
        nothing of it is kept).
        """
        found = []
        for code in largest(np.diff(self.inside_bounds))[:_INSIDE].tolist() if spec.within is not None else ():
            first, last = self.inside_bounds[code : code + 2].tolist()
            start, stop = band(self.inside_below[first : last + 1], spec)
            ends = exp(self.inside_key[[first + start, first + stop - 1]]).tolist() if stop > start else [None, None]
            about = {"domain": self.domain_names[code], "documents": last - first, "start": start, "stop": stop}
            found.append(about | {"perplexity_min": ends[0], "perplexity_max": ends[1]})
        return found

    def in_domain(self, row: int, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Where the documents with the ranks [start, stop) among those of one domain stand among all, and their number.

        The domain is that of a row of a report's `domains`. The ranks among all are int64 [stop - start], fewer where
        the domain has no more. Raises InputError if no row names it.
        """
        named = largest(np.diff(self.inside_bounds))[:DOMAINS_MAX]
        if row >= len(named):
            raise InputError(
                f"domain: the report names {len(named):,} domains, counted from 0, and {row} is none of them"
            )
        code = int(named[row])
        size = int(self.inside_bounds[code + 1] - self.inside_bounds[code])
        under = self.marks[:, code, 0]
        found = []
        for rank in range(start, min(stop, size)):
            mark = int(np.searchsorted(under, rank, side="right")) - 1
            first = mark * self.step
            there = np.flatnonzero(self.domain[first : first + self.step] == code)
            found.append(first + int(there[rank - under[mark]]))
        return np.array(found, dtype=np.int64), size

    def _under(self, rank: int) -> np.ndarray:
        """Documents and tokens of each domain under a rank, int64 [domains, 2]."""
        mark = rank // self.step
        first = mark * self.step
        counts = _counts(self.domain[first:rank], np.diff(self.below[first : rank + 1]), len(self.domain_names))
        counts += self.marks[mark]
        return counts

    def _inside(self, spec: SelectionSpec) -> tuple[np.ndarray, tuple[float, float] | None]:
        """Documents and tokens kept of each domain, and the least and the largest ln(perplexity) among them."""
        bounds = self.inside_bounds.tolist()
        counts = np.zeros((len(self.domain_names), 2), dtype=np.int64)
        ends: list[tuple[float, float]] = []
        for code, (first, last) in enumerate(pairwise(bounds)):
            start, stop = band(self.inside_below[first : last + 1], spec)
            if stop > start:
                tokens = self.inside_below[first + stop] - self.inside_below[first + start]
                counts[code] = stop - start, tokens
                ends.append((self.inside_key[first + start], self.inside_key[first + stop - 1]))
        return counts, (min(low for low, _ in ends), max(high for _, high in ends)) if ends else None


def read_ranks(storage: Storage, folder: str) -> Ranks:
    """What `write_ranks` wrote. Raises FileNotFoundError if it is not there."""
    about = json.loads(storage.read_bytes(f"{folder}/{FOLDER}/ranks.json"))
    arrays = {}
    for name in _ARRAYS:
        path = f"{folder}/{FOLDER}/{name}.npy"
        local = storage.local(path)
        source = local if local is not None else io.BytesIO(storage.read_bytes(path))
        arrays[name] = np.load(source, mmap_mode="r" if local is not None else None, allow_pickle=False)
    return Ranks(**arrays, step=about["step"], domain_names=about["domains"])


def _step(documents: int, domains: int) -> int:
    marks = max(1, min(_MARKS, _MARKS_NUMBERS // (2 * domains)))
    return max(1, -(-documents // marks))


def _marks(domain: np.ndarray, tokens: np.ndarray, size: int, step: int) -> np.ndarray:
    marks = [np.zeros((size, 2), dtype=np.int64)]
    for first in range(0, len(domain), step):
        marks.append(marks[-1] + _counts(domain[first : first + step], tokens[first : first + step], size))
    return np.stack(marks)


def _counts(domain: np.ndarray, tokens: np.ndarray, size: int) -> np.ndarray:
    """Documents and tokens of each domain, int64 [size, 2]."""
    counted = np.zeros((size, 2), dtype=np.int64)
    counted[:, 0] = np.bincount(domain, minlength=size)
    np.add.at(counted[:, 1], domain, tokens)
    return counted


def _sums(values: np.ndarray) -> np.ndarray:
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(values, dtype=np.int64)))
