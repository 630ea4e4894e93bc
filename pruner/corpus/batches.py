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
BATCH_CHARACTERS = 1 << 20  # small, so that the first batch is read soon
_BATCH_SOURCE_BYTES = 64 << 20
_COUNTS = pa.field("characters", pa.int64())  # the last column of pieces, which batches do not have


def make_piece(
    text: Any, id_: Any, domain: Any, reject: Any, source: Any = None, *, characters: np.ndarray | None = None
) -> pa.RecordBatch:
    """Rows of one file, all columns but `file` and `row`, and `characters`. Each column is an Arrow array [rows].

    `characters` is the length of each text, int64 [rows], 0 without text; it is counted where it is not given.
    """
    columns = [text, id_, domain, pc.binary_length(text), reject]
    schema = pa.schema(list(SCHEMA)[2:])
    if source is not None:
        columns, schema = [*columns, source], schema.append(pa.field(SOURCE, source.type))
    counts = pa.array(_characters(text) if characters is None else characters)
    return pa.RecordBatch.from_arrays([*columns, counts], schema=schema.append(_COUNTS))


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

    A batch ends with BATCH_ROWS rows, or with the document that brings it to BATCH_CHARACTERS characters of text. Where
    there is a `source`, it also ends before about 64 MiB of it, and where the types of its columns change.
    """
    held: list[pa.RecordBatch] = []
    rows = characters = size = 0
    for counted in pieces:
        piece = counted.select(counted.schema.names[:-1])
        if held and piece.schema != held[0].schema:
            yield pa.concat_batches(held)
            held, rows, characters, size = [], 0, 0, 0
        ends = np.cumsum(counted[_COUNTS.name].to_numpy())
        row_bytes = piece[SOURCE].nbytes / len(piece) if SOURCE in piece.schema.names and len(piece) else 0.0
        start = 0
        while start < len(piece):
            before = int(ends[start - 1]) if start else 0
            # The row whose text reaches the limit is the last of its batch.
            full = int(np.searchsorted(ends, before + BATCH_CHARACTERS - characters)) + 1
            stop = min(full, start + BATCH_ROWS - rows, len(piece))
            if row_bytes:
                stop = min(stop, start + max(1, int((_BATCH_SOURCE_BYTES - size) / row_bytes)))
            held.append(piece.slice(start, stop - start))
            rows += stop - start
            characters += int(ends[stop - 1]) - before
            size += int(row_bytes * (stop - start))
            start = stop
            if rows == BATCH_ROWS or characters >= BATCH_CHARACTERS or size + row_bytes > _BATCH_SOURCE_BYTES:
                yield pa.concat_batches(held) if len(held) > 1 else held[0]
                held, rows, characters, size = [], 0, 0, 0
    if held:
        yield pa.concat_batches(held)


def _characters(text: Any) -> np.ndarray:
    """The length of each value of a large_string array in characters, int64 [rows]; 0 for nulls.

    A third of the time of Arrow's `utf8_length`: it counts the bytes that begin no character, 64 at a time.
    """
    if text.null_count:
        text = text.fill_null("")
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(text.buffers()[2] or b"", np.int8)[offsets[0] : offsets[-1]]
    places = offsets - offsets[0]
    if data.min(initial=0) >= 0:  # ASCII
        return np.diff(places)
    words = np.zeros(len(data) // 64 + 1, np.uint64)
    inside = np.packbits(data < -64, bitorder="little")  # bytes 0x80 to 0xBF
    words.view(np.uint8)[: len(inside)] = inside
    before = np.concatenate(([0], np.cumsum(np.bitwise_count(words), dtype=np.int64)))
    word, bit = places // 64, (places % 64).astype(np.uint64)
    rest = np.bitwise_count(words[word] & ((np.uint64(1) << bit) - np.uint64(1)))
    return np.diff(places - before[word] - rest)
