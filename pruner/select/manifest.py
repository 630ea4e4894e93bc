"""The manifest: the table of the documents that a selection keeps."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.select.score_table import ROWS_A_GROUP, SCORES
from pruner.tables.hashing_writer import HashingWriter, WrittenFile
from pruner.tables.storage import Storage

_COPIED = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes"]
MANIFEST = pa.schema(
    [*(SCORES.field(name) for name in _COPIED[:-1]), ("percentile", pa.float64()), SCORES.field("n_bytes")]
)


def write_manifest(
    storage: Storage,
    scores_path: str,
    path: str,
    percentile: np.ndarray,
    provenance: dict[str, Any],
    beat: Callable[[], None],
) -> WrittenFile:
    """Writes a manifest as Parquet, in the order of the table of scores.

    percentile float64 [rows of that table] is NaN for the documents that are not kept. `provenance` is stored as JSON
    under the metadata key `winnow`. The same input gives the same bytes. Calls `beat` for each row group.
    """
    schema = MANIFEST.with_metadata({"winnow": orjson.dumps(provenance, option=orjson.OPT_SORT_KEYS)})
    with storage.create(path) as file:
        out = HashingWriter(file)
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for table in _regrouped(_kept_rows(storage, scores_path, percentile, beat)):
                writer.write_table(table.replace_schema_metadata(schema.metadata))
                beat()
    return out.written


def _kept_rows(
    storage: Storage, scores_path: str, percentile: np.ndarray, beat: Callable[[], None]
) -> Iterator[pa.Table]:
    """The kept rows of each piece of the table of scores."""
    before = 0
    with storage.open(scores_path) as source:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_A_GROUP, columns=_COPIED):
            values = percentile[before : before + len(batch)]
            before += len(batch)
            kept = ~np.isnan(values)
            table = pa.Table.from_batches([batch]).filter(pa.array(kept))
            yield table.append_column("percentile", pa.array(values[kept])).select(MANIFEST.names)
            beat()


def _regrouped(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in pieces of ROWS_A_GROUP, so that a small rate does not give tiny row groups."""
    held = MANIFEST.empty_table()
    for table in tables:
        held = pa.concat_tables([held, table])
        while len(held) >= ROWS_A_GROUP:
            yield held.slice(0, ROWS_A_GROUP)
            held = held.slice(ROWS_A_GROUP)
        held = held.combine_chunks()
    if len(held):  # some readers cannot read row groups without rows
        yield held
