"""The manifest: the table of the documents that a selection keeps. Its last columns are those of further scorers."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.select.score_table import SCORES, further_columns
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.storage import Storage
from pruner.tables.table_writer import TableWriter

_COPIED = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes"]
MANIFEST = pa.schema(
    [*(SCORES.field(name) for name in _COPIED[:-1]), ("percentile", pa.float64()), SCORES.field("n_bytes")]
)


Chosen = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def write_manifest(
    storage: Storage,
    scores_path: str,
    out: BinaryIO | HashingWriter,
    rows: range,
    chosen: Chosen,
    provenance: dict[str, Any],
    beat: Callable[[], None],
) -> None:
    """Writes the kept documents of some rows of the table of scores as Parquet, in their order.

    The rows are those of the row groups that begin inside `rows`. `chosen` gives which of rows [start, stop) of the
    table are kept, bool, and their percentiles, float64, NaN for null. `provenance` is stored as JSON under the
    metadata key `winnow`. The same input gives the same bytes. Calls `beat` for each row group.
    """
    with storage.open(scores_path) as source:
        schema = pa.schema([*MANIFEST, *further_columns(pq.read_schema(source))])
    schema = schema.with_metadata({"winnow": orjson.dumps(provenance, option=orjson.OPT_SORT_KEYS)})
    with TableWriter(out, schema) as writer:
        for table in _kept_rows(storage, scores_path, rows, chosen, schema.names, beat):
            writer.add(table)


def _kept_rows(
    storage: Storage,
    scores_path: str,
    rows: range,
    chosen: Chosen,
    names: list[str],
    beat: Callable[[], None],
) -> Iterator[pa.Table]:
    """The kept rows of each row group, with the columns `names`."""
    first, copied = 0, [name for name in names if name != "percentile"]
    with storage.open(scores_path) as source:
        scores = pq.ParquetFile(source)
        for group in range(scores.num_row_groups):
            size = scores.metadata.row_group(group).num_rows
            if first in rows:
                kept, percentile = chosen(first, first + size)
                if kept.any():
                    table = scores.read_row_group(group, columns=copied, use_threads=False).filter(pa.array(kept))
                    yield table.append_column("percentile", pa.array(percentile[kept], from_pandas=True)).select(names)
                beat()
            first += size
