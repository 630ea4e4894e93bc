"""Makes a selection: its manifest, in parts where it is large, and its record, from the ranks of an index."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np

from pruner.ranks.bands import band, documents_band, exact_rate
from pruner.ranks.coarse import percentile_rule
from pruner.select.index_files import PERCENTILE, array_path, read_array, read_index, read_kept, row_ranks
from pruner.select.kept import kept_by_rank, kept_inside
from pruner.select.manifest import Chosen, write_manifest
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection_record import SelectionRecord
from pruner.select.stored_array import StoredArray
from pruner.spec import Rule, SelectionSpec
from pruner.tables import table_files
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.records import write_record
from pruner.tables.storage import Storage
from pruner.tables.table_files import join_files

MANIFEST_FILE, SELECTION_FILE = "manifest.parquet", "selection.json"
PART_ROWS = 1 << 21  # of the table of scores, for each part of a manifest


def part_count(rows: int) -> int:
    """The number of parts that the manifests over a table of scores are made in."""
    return max(1, -(-rows // _part_rows()))


def part_path(folder: str, part: int) -> str:
    """The file of a part."""
    return f"{folder}/parts/{part}.parquet"


def _part_rows() -> int:
    return min(PART_ROWS, table_files.ONE_FILE_ROWS)  # a manifest that is a folder is always made in parts


class SelectionWriter:
    """Writes a selection of the index in `index_folder` into `folder`.

    The arrays of the selection's order are in `order_folder`, which is `index_folder` for the order by token. The
    manifest's metadata are `provenance`, the `selection`, and how exact its `percentile` is.
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
        self._provenance = provenance

    def write_part(self, part: int, beat: Callable[[], None]) -> None:
        """Writes the manifest of some rows of the table of scores. Calls `beat` for each row group.

        Raises FileNotFoundError if the index or the order is missing.
        """
        with self._storage.create(part_path(self._folder, part)) as file:
            self._write_rows(range(part * _part_rows(), (part + 1) * _part_rows()), file, beat)

    def write(self, beat: Callable[[], None]) -> SelectionRecord:
        """Writes the manifest, from its parts if there are several, and then selection.json.

        The manifest is manifest.parquet, a folder of parts if it has very many rows. Calls `beat` now and then. Raises
        FileNotFoundError if the index, the order or a part is missing.
        """
        storage, index = self._storage, read_index(self._storage, self._order)
        counts, rows = index.counts(self._spec, beat), int(index.shards[-1])
        made = [part_path(self._folder, part) for part in range(part_count(rows))]
        if len(made) > 1:
            files = join_files(storage, self._folder, MANIFEST_FILE, counts.documents, made, beat)
        else:
            with storage.create(f"{self._folder}/{MANIFEST_FILE}") as file:
                out = HashingWriter(file)
                self._write_rows(range(rows), out, beat)
            files = {MANIFEST_FILE: out.written}
        record = SelectionRecord(**dict(counts), files=files)
        write_record(storage, f"{self._folder}/{SELECTION_FILE}", record)
        for path in made if len(made) > 1 else ():
            storage.remove(path)
        return record

    def _write_rows(self, rows: range, out: BinaryIO | HashingWriter, beat: Callable[[], None]) -> None:
        chosen = choose(self._storage, self._order, self._spec)
        about = {"selection": self._spec.model_dump(), "percentile": percentile_rule(chosen.documents)}
        write_manifest(self._storage, self._scores, out, rows, chosen, self._provenance | about, beat)


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

    return Chosen(kept, chosen)


def _whole(storage: Storage, folder: str, spec: Rule) -> Chosen:
    documents = len(StoredArray(storage, array_path(folder, "key")))
    if spec.unit == "documents":
        kept = documents_band(documents, spec.criterion, exact_rate(spec))
    else:
        kept = band(read_array(storage, folder, "below"), spec)
    ranks = row_ranks(storage, folder, inside=False)
    return Chosen(kept[1] - kept[0], lambda start, stop: kept_by_rank(ranks(start, stop), kept, documents))


def _inside(storage: Storage, folder: str, spec: Rule) -> Chosen:
    bounds = np.array(read_array(storage, folder, "inside_bounds"))
    if spec.unit == "documents":
        bands = [documents_band(size, spec.criterion, exact_rate(spec)) for size in np.diff(bounds).tolist()]
    else:
        below = read_array(storage, folder, "inside_below")
        bands = [band(below[first : last + 1], spec) for first, last in pairwise(bounds.tolist())]
    positions = row_ranks(storage, folder, inside=True)
    documents = sum(last - first for first, last in bands)
    return Chosen(documents, lambda start, stop: kept_inside(positions(start, stop), bounds, bands))
