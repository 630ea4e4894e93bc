"""Makes a selection: its manifest, in parts where it is large, and its record, from the ranks of an index."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from pruner.ranks.bands import band
from pruner.select.index import Index, read_index
from pruner.select.manifest import write_manifest
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection_record import SelectionRecord
from pruner.spec import SelectionSpec
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.join_parquet import ParquetJoiner
from pruner.tables.records import write_record
from pruner.tables.storage import Storage

MANIFEST_FILE, SELECTION_FILE = "manifest.parquet", "selection.json"
PART_ROWS = 1 << 21  # of the table of scores, for each part of a manifest


def part_count(rows: int) -> int:
    """The number of parts that the manifests over a table of scores are made in."""
    return max(1, -(-rows // PART_ROWS))


def part_path(folder: str, part: int) -> str:
    """The file of a part."""
    return f"{folder}/parts/{part}.parquet"


class SelectionWriter:
    """Writes a selection of the index in `index_folder` into `folder`.

    The arrays of the selection's order are in `order_folder`, which is `index_folder` for the order by token. The
    manifest's metadata are `provenance` and the `selection`.
    """

    def __init__(
        self,
        storage: Storage,
        index_folder: str,
        order_folder: str,
        folder: str,
        spec: SelectionSpec,
        provenance: dict[str, Any],
    ) -> None:
        """Raises FileNotFoundError if the index or the order is missing."""
        self._storage, self._folder, self._spec = storage, folder, spec
        self._scores = f"{index_folder}/{SCORES_FILE}"
        self._provenance = provenance | {"selection": spec.model_dump()}
        self._index = read_index(storage, order_folder)

    def write_part(self, part: int, beat: Callable[[], None]) -> None:
        """Writes the manifest of some rows of the table of scores. Calls `beat` for each row group."""
        with self._storage.create(part_path(self._folder, part)) as file:
            rows = range(part * PART_ROWS, (part + 1) * PART_ROWS)
            write_manifest(self._storage, self._scores, file, rows, self._percentiles(), self._provenance, beat)

    def write(self, beat: Callable[[], None]) -> SelectionRecord:
        """Writes manifest.parquet, from its parts if there are several, and then selection.json.

        Calls `beat` now and then. Raises FileNotFoundError if a part is missing.
        """
        storage, counts = self._storage, self._index.counts(self._spec, beat)
        rows, parts = len(self._index.rank), part_count(len(self._index.rank))
        with storage.create(f"{self._folder}/{MANIFEST_FILE}") as file:
            out = HashingWriter(file)
            if parts == 1:
                percentiles = self._percentiles()
                write_manifest(storage, self._scores, out, range(rows), percentiles, self._provenance, beat)
            else:
                joiner = ParquetJoiner(out)
                for part in range(parts):
                    with storage.open(part_path(self._folder, part)) as source:
                        joiner.add(source, beat)
                joiner.close()
        record = SelectionRecord(**dict(counts), files={MANIFEST_FILE: out.written})
        write_record(storage, f"{self._folder}/{SELECTION_FILE}", record)
        for part in range(parts if parts > 1 else 0):
            storage.remove(part_path(self._folder, part))
        return record

    def _percentiles(self) -> Callable[[int, int], np.ndarray]:
        """The percentiles of the documents in rows [start, stop) of the table of scores; NaN of those not kept."""
        return _whole(self._index, self._spec) if self._spec.within is None else _inside(self._index, self._spec)


def _whole(index: Index, spec: SelectionSpec) -> Callable[[int, int], np.ndarray]:
    first, last = band(index.below, spec)

    def percentiles(start: int, stop: int) -> np.ndarray:
        rank = index.rank[start:stop]
        return np.where((rank >= first) & (rank < last), 100.0 * rank / index.documents, np.nan)

    return percentiles


def _inside(index: Index, spec: SelectionSpec) -> Callable[[int, int], np.ndarray]:
    bounds = np.asarray(index.inside_bounds)
    bands = [band(index.inside_below[first : last + 1], spec) for first, last in pairwise(bounds.tolist())]
    first, last = np.array(bands, dtype=np.int64).reshape(-1, 2).T

    def percentiles(start: int, stop: int) -> np.ndarray:
        position = index.inside_rank[start:stop]
        domain = np.maximum(np.searchsorted(bounds, position, side="right") - 1, 0)
        rank = position - bounds[domain]
        kept = (position >= 0) & (rank >= first[domain]) & (rank < last[domain])
        return np.where(kept, 100.0 * rank / np.diff(bounds)[domain], np.nan)

    return percentiles
