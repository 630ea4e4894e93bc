"""The manifest: the table of the documents that a selection keeps. Its last columns are those of further scorers."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from pruner.select.score_table import SCORES, further_columns
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable
from pruner.tables.table_writer import TableWriter

_COPIED = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes"]
MANIFEST = pa.schema(
    [*(SCORES.field(name) for name in _COPIED[:-1]), ("percentile", pa.float64()), SCORES.field("n_bytes")]
)


class Chosen(NamedTuple):
    """The rows of the table of scores that a selection keeps: their number, and a function of rows [start, stop).

    That gives which of them are kept, bool, and their percentiles, float64, NaN for null.
    """

    documents: int
    rows: Callable[[int, int], tuple[np.ndarray, np.ndarray]]


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

    The rows are those of the row groups that begin inside `rows`. `provenance` is stored as JSON under the metadata key
    `winnow`. The same input gives the same bytes. Calls `beat` for each row group.
    """
    scores = StoredTable(storage, scores_path)
    schema = pa.schema([*MANIFEST, *further_columns(scores.schema)])
    schema = schema.with_metadata({"winnow": orjson.dumps(provenance, option=orjson.OPT_SORT_KEYS)})
    with TableWriter(out, schema) as writer:
        for table in _kept_rows(scores, rows, chosen, schema.names, beat):
            writer.add(table)


def _kept_rows(
    scores: StoredTable, rows: range, chosen: Chosen, names: list[str], beat: Callable[[], None]
) -> Iterator[pa.Table]:
    """The kept rows of each row group, with the columns `names`."""
    copied = [name for name in names if name != "percentile"]
    for group in scores.groups:
        if group.first_row in rows:
            kept, percentile = chosen.rows(group.first_row, group.first_row + group.rows)
            if kept.any():
                table = scores.read_group(group, copied).filter(pa.array(kept))
                yield table.append_column("percentile", pa.array(percentile[kept], from_pandas=True)).select(names)
            beat()
