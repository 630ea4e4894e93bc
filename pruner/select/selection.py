"""Makes a selection: its manifest, in parts where it is large, and its record, from the ranks of an index."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from pruner.ranks.bands import band, documents_band, exact_rate
from pruner.select.index import PERCENTILE, array_path, read_array, read_index, read_kept, row_ranks
from pruner.select.kept import kept_by_rank, kept_inside
from pruner.select.manifest import Chosen, write_manifest
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection_record import SelectionRecord
from pruner.select.stored_array import StoredArray
from pruner.spec import Rule, SelectionSpec
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
        self._storage, self._order, self._folder, self._spec = storage, order_folder, folder, spec
        self._scores = f"{index_folder}/{SCORES_FILE}"
        self._provenance = provenance | {"selection": spec.model_dump()}

    def write_part(self, part: int, beat: Callable[[], None]) -> None:
        """Writes the manifest of some rows of the table of scores. Calls `beat` for each row group.

        Raises FileNotFoundError if the index or the order is missing.
        """
        with self._storage.create(part_path(self._folder, part)) as file:
            rows = range(part * PART_ROWS, (part + 1) * PART_ROWS)
            write_manifest(self._storage, self._scores, file, rows, self._chosen(), self._provenance, beat)

    def write(self, beat: Callable[[], None]) -> SelectionRecord:
        """Writes manifest.parquet, from its parts if there are several, and then selection.json.

        Calls `beat` now and then. Raises FileNotFoundError if the index, the order or a part is missing.
        """
        storage, index = self._storage, read_index(self._storage, self._order)
        counts, rows = index.counts(self._spec, beat), int(index.shards[-1])
        parts = part_count(rows)
        with storage.create(f"{self._folder}/{MANIFEST_FILE}") as file:
            out = HashingWriter(file)
            if parts == 1:
                write_manifest(storage, self._scores, out, range(rows), self._chosen(), self._provenance, beat)
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

    def _chosen(self) -> Chosen:
        return choose(self._storage, self._order, self._spec)


def choose(storage: Storage, order_folder: str, spec: SelectionSpec) -> Chosen:
    """Which rows of the table of scores a selection keeps. Raises FileNotFoundError if its order is missing."""
    if spec.stages is not None:
        return _left(storage, order_folder)
    return (_whole if spec.within is None else _inside)(storage, order_folder, spec)


def _left(storage: Storage, folder: str) -> Chosen:
    """The documents that stages leave."""
    kept = read_kept(storage, folder)
    ranks, percentiles = row_ranks(storage, folder, inside=False), StoredArray(storage, array_path(folder, PERCENTILE))

    def chosen(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        rank = ranks(start, stop)
        return (rank >= 0) & (rank < kept), percentiles.read(start, stop)

    return chosen


def _whole(storage: Storage, folder: str, spec: Rule) -> Chosen:
    documents = len(StoredArray(storage, array_path(folder, "key")))
    if spec.unit == "documents":
        kept = documents_band(documents, spec.criterion, exact_rate(spec))
    else:
        kept = band(read_array(storage, folder, "below"), spec)
    ranks = row_ranks(storage, folder, inside=False)
    return lambda start, stop: kept_by_rank(ranks(start, stop), kept, documents)


def _inside(storage: Storage, folder: str, spec: Rule) -> Chosen:
    bounds = np.array(read_array(storage, folder, "inside_bounds"))
    if spec.unit == "documents":
        bands = [documents_band(size, spec.criterion, exact_rate(spec)) for size in np.diff(bounds).tolist()]
    else:
        below = read_array(storage, folder, "inside_below")
        bands = [band(below[first : last + 1], spec) for first, last in pairwise(bounds.tolist())]
    positions = row_ranks(storage, folder, inside=True)
    return lambda start, stop: kept_inside(positions(start, stop), bounds, bands)
