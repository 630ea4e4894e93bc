"""The manifest: the table of the documents that a selection keeps, as Parquet and as JSON lines."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.select.bands import Selected
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.score_table import ROWS_A_GROUP, SCORES, eligible_rows, json_lines, write_rows
from pruner.tables.storage import Storage

_COLUMNS = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity"]
MANIFEST = pa.schema([SCORES.field(name) for name in _COLUMNS] + [("percentile", pa.float64())])


def write_manifest(
    storage: Storage, scores_path: str, folder: str, selected: Selected, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Writes manifest.parquet and manifest.jsonl into a folder; returns sha256 and size of each by name.

    Rows stand in the order of (file, row). The same scores, selection and provenance give the same bytes.
    """
    schema = MANIFEST.with_metadata({"winnow": json.dumps(provenance, sort_keys=True)})
    with ExitStack() as stack:
        names = ("manifest.parquet", "manifest.jsonl")
        outs = {name: HashingWriter(stack.enter_context(storage.create(f"{folder}/{name}"))) for name in names}
        with pq.ParquetWriter(outs["manifest.parquet"], schema, compression="zstd") as writer:
            for table in _gathered(_kept_rows(storage, scores_path, selected)):
                write_rows(writer, table.replace_schema_metadata(schema.metadata))
                outs["manifest.jsonl"].write(json_lines(table))
    return {name: out.about for name, out in outs.items()}


def _kept_rows(storage: Storage, scores_path: str, selected: Selected) -> Iterator[pa.Table]:
    """The kept rows of each piece of the score table."""
    before = 0  # eligible documents in the pieces before this one
    with storage.open(scores_path) as source:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_A_GROUP, columns=[*_COLUMNS, "training", "reject"]):
            places = np.flatnonzero(eligible_rows(batch))
            low, high = np.searchsorted(selected.kept, [before, before + len(places)])
            rows = pa.array(places[selected.kept[low:high] - before])
            table = pa.Table.from_batches([batch]).select(_COLUMNS).take(rows)
            yield table.append_column(MANIFEST.field("percentile"), pa.array(selected.percentile[low:high]))
            before += len(places)


def _gathered(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in pieces of ROWS_A_GROUP, so that a small rate gives no tiny row groups."""
    waiting = MANIFEST.empty_table()
    for table in tables:
        waiting = pa.concat_tables([waiting, table]).combine_chunks()
        while len(waiting) >= ROWS_A_GROUP:
            yield waiting.slice(0, ROWS_A_GROUP)
            waiting = waiting.slice(ROWS_A_GROUP)
    yield waiting
