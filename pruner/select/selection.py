"""Makes a selection: its manifest and its record, as a slice of the index."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from pruner.ranks.bands import band
from pruner.select.index import Index, read_index
from pruner.select.manifest import write_manifest
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection_record import SelectionRecord
from pruner.spec import SelectionSpec
from pruner.tables.records import write_record
from pruner.tables.storage import Storage

MANIFEST_FILE, SELECTION_FILE = "manifest.parquet", "selection.json"
_PIECE = 1 << 22  # documents at a time


def write_selection(
    storage: Storage,
    index_folder: str,
    order_folder: str,
    folder: str,
    spec: SelectionSpec,
    provenance: dict[str, Any],
    beat: Callable[[], None],
) -> SelectionRecord:
    """Makes a selection of the index in `index_folder`: writes manifest.parquet, then selection.json, into `folder`.

    The arrays of the selection's order are in `order_folder`, which is `index_folder` for the order by token. The
    manifest's metadata are `provenance` and the `selection`. Calls `beat` for each row group. Needs 8 bytes of memory a
    document. Raises FileNotFoundError if the index or the order is missing.
    """
    index = read_index(storage, order_folder)
    counts = index.counts(spec, beat)
    written = write_manifest(
        storage,
        f"{index_folder}/{SCORES_FILE}",
        f"{folder}/{MANIFEST_FILE}",
        _percentiles(index, spec, beat),
        provenance | {"selection": spec.model_dump()},
        beat,
    )
    record = SelectionRecord(**dict(counts), files={MANIFEST_FILE: written})
    write_record(storage, f"{folder}/{SELECTION_FILE}", record)
    return record


def _percentiles(index: Index, spec: SelectionSpec, beat: Callable[[], None]) -> np.ndarray:
    """The percentile of each kept document by its row of the table of scores, float64 [rows]; NaN for all others."""
    percentile = np.full(int(index.shards[-1]), np.nan)
    if spec.within is None:
        groups: Iterator[tuple[int, int]] = iter([(0, index.documents)])
        below, place = index.below, index.place
    else:
        groups = pairwise(index.inside_bounds.tolist())
        below, place = index.inside_below, index.inside_place
    done = 0
    for first, last in groups:
        start, stop = band(below[first : last + 1], spec)
        for rank in range(start, stop, _PIECE):
            ranks = np.arange(rank, min(rank + _PIECE, stop))
            percentile[place[first + ranks[0] : first + ranks[-1] + 1]] = 100.0 * ranks / (last - first)
        done += last - first + 1_000
        if done >= _PIECE:
            beat()
            done = 0
    return percentile
