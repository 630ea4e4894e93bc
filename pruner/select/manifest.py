"""The manifest: the table of the documents that a selection keeps."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.select.score_table import SCORES
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.storage import Storage
from pruner.tables.table_writer import TableWriter

_COPIED = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes"]
MANIFEST = pa.schema(
    [*(SCORES.field(name) for name in _COPIED[:-1]), ("percentile", pa.float64()), SCORES.field("n_bytes")]
)


def write_manifest(
    storage: Storage,
    scores_path: str,
    out: BinaryIO | HashingWriter,
    rows: range,
    percentiles: Callable[[int, int], np.ndarray],
    provenance: dict[str, Any],
    beat: Callable[[], None],
) -> None:
    """Writes the kept documents of some rows of the table of scores as Parquet, in their order.

    The rows are those of the row groups that begin inside `rows`. `percentiles` gives those of rows [start, stop) of
    the table, float64, NaN of documents that are not kept. `provenance` is stored as JSON under the metadata key
    `winnow`. The same input gives the same bytes. Calls `beat` for each row group.
    """
    schema = MANIFEST.with_metadata({"winnow": orjson.dumps(provenance, option=orjson.OPT_SORT_KEYS)})
    with TableWriter(out, schema) as writer:
        for table in _kept_rows(storage, scores_path, rows, percentiles, beat):
            writer.add(table)


def _kept_rows(
    storage: Storage,
    scores_path: str,
    rows: range,
    percentiles: Callable[[int, int], np.ndarray],
    beat: Callable[[], None],
) -> Iterator[pa.Table]:
    """The kept rows of each row group."""
    first = 0
    with storage.open(scores_path) as source:
        scores = pq.ParquetFile(source)
        for group in range(scores.num_row_groups):
            size = scores.metadata.row_group(group).num_rows
            if first in rows:
                values = percentiles(first, first + size)
                kept = ~np.isnan(values)
                if kept.any():
                    table = scores.read_row_group(group, columns=_COPIED, use_threads=False).filter(pa.array(kept))
                    yield table.append_column("percentile", pa.array(values[kept])).select(MANIFEST.names)
                beat()
            first += size
