"""Record batches of a shard's rows: their columns, the reasons of rejects, and the rule that cuts the batches.

Columns: `file` (int32, the number of the file in the shard, from 0), `row` (int64, the row of the file, counted from
the shard's first row in it), `text` (large_string, null where the row is no document), `id` and `domain` (string),
`n_bytes` (int64, UTF-8 bytes of the text, null without text), `reject` (string: why the row is no document, else null)
and, where columns of the file were asked for, `source` (a struct of these columns).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("text", pa.large_string()),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("n_bytes", pa.int64()),
        ("reject", pa.string()),
    ]
)
SOURCE = "source"
LINE = "line"  # the field of `source` that holds a whole JSON line

NOT_TEXT = "not text"
EMPTY = "empty text"
UNREADABLE = "unreadable row"
DOCUMENT_BYTES_MAX = 64 << 20  # of a document's text or JSON line
TOO_LONG = f"{UNREADABLE}: longer than {DOCUMENT_BYTES_MAX >> 20} MiB"

BATCH_ROWS = 2_048
BATCH_BYTES = 1 << 20  # of text; small, so that the first batch is read soon
_BATCH_SOURCE_BYTES = 64 << 20


def make_piece(text: Any, id_: Any, domain: Any, reject: Any, source: Any = None) -> pa.RecordBatch:
    """Rows of one file, all columns but `file` and `row`. Each column is an Arrow array [rows]."""
    columns = [text, id_, domain, pc.binary_length(text), reject]
    schema = pa.schema(list(SCHEMA)[2:])
    if source is not None:
        columns, schema = [*columns, source], schema.append(pa.field(SOURCE, source.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def numbered(pieces: Iterable[pa.RecordBatch], file: int, first_row: int) -> Iterator[pa.RecordBatch]:
    """The pieces of a file with the columns `file` and `row`."""
    row = first_row
    for piece in pieces:
        numbers = np.full(len(piece), file, np.int32), np.arange(row, row + len(piece), dtype=np.int64)
        row += len(piece)
        schema = pa.schema([*list(SCHEMA)[:2], *piece.schema])
        yield pa.RecordBatch.from_arrays([*map(pa.array, numbers), *piece.columns], schema=schema)


def cut(pieces: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cuts consecutive pieces of a shard into batches that do not depend on the sizes of the pieces.

    A batch ends with BATCH_ROWS rows, or with the document that brings it to BATCH_BYTES of text. Where there is a
    `source`, it also ends before about 64 MiB of it, and where the types of its columns change.
    """
    held: list[pa.RecordBatch] = []
    rows = text = size = 0
    for piece in pieces:
        if held and piece.schema != held[0].schema:
            yield pa.concat_batches(held)
            held, rows, text, size = [], 0, 0, 0
        sizes = piece["n_bytes"]
        ends = np.cumsum(sizes.fill_null(0) if sizes.null_count else sizes)
        row_bytes = piece[SOURCE].nbytes / len(piece) if SOURCE in piece.schema.names and len(piece) else 0.0
        start = 0
        while start < len(piece):
            before = int(ends[start - 1]) if start else 0
            # The row whose text reaches the limit is the last of its batch.
            full = int(np.searchsorted(ends, before + BATCH_BYTES - text)) + 1
            stop = min(full, start + BATCH_ROWS - rows, len(piece))
            if row_bytes:
                stop = min(stop, start + max(1, int((_BATCH_SOURCE_BYTES - size) / row_bytes)))
            held.append(piece.slice(start, stop - start))
            rows += stop - start
            text += int(ends[stop - 1]) - before
            size += int(row_bytes * (stop - start))
            start = stop
            if rows == BATCH_ROWS or text >= BATCH_BYTES or size + row_bytes > _BATCH_SOURCE_BYTES:
                yield pa.concat_batches(held) if len(held) > 1 else held[0]
                held, rows, text, size = [], 0, 0, 0
    if held:
        yield pa.concat_batches(held)
