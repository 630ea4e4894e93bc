"""Reads record batches of Arrow IPC files and streams (.arrow, Feather 2, `datasets.save_to_disk`).

A file is a stream between a magic number and a footer, so both are read as streams. The headers of its messages tell
where each record batch lies; a range of batches is read as the schema, the dictionaries before it, and the batches.
"""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from pruner.corpus.content import ARROW_FILE
from pruner.corpus.flatbuffers import (
    BODY_COMPRESSION_CODEC,
    MESSAGE_BODY_LENGTH,
    MESSAGE_HEADER,
    RECORD_BATCH_COMPRESSION,
    RECORD_BATCH_LENGTH,
    field,
    follow,
    int64,
)

_HEADER_BYTES_MAX = 16 << 20
_SLICE_ROWS = 512
_FILE_END = b"ARROW1"


class Message(NamedTuple):
    """A message of a stream: where it lies in the file, and what it holds."""

    kind: str  # "schema", "dictionary" or "record batch"
    start: int
    stop: int
    rows: int  # of a record batch, else 0


def read_messages(source: BinaryIO) -> list[Message]:
    """The messages of a file, by their headers; no data is read. Raises ValueError if it is damaged or truncated."""
    size = source.seek(0, 2)
    is_file = is_arrow_file(source)
    start = len(ARROW_FILE) if is_file else 0
    found: list[Message] = []
    while start < size:
        source.seek(start)
        marker, length = struct.unpack("<iI", source.read(8).ljust(8, b"\0"))
        if marker != -1:
            raise ValueError(f"no Arrow message at byte {start:,}")
        if length == 0:  # the end of the stream
            break
        if length > _HEADER_BYTES_MAX:
            raise ValueError(f"a message header of {length:,} bytes")
        header = source.read(length)
        if len(header) < length:
            raise ValueError("it is truncated")
        kind, rows, body = _parse(header)
        stop = start + 8 + length + body
        if body < 0 or stop > size:
            raise ValueError("it is truncated")
        found.append(Message(kind, start, stop, rows))
        start = stop
    if is_file:
        source.seek(max(0, size - len(_FILE_END)))
        if source.read() != _FILE_END:
            raise ValueError("it is truncated")
    if not found or found[0].kind != "schema":
        raise ValueError("it does not begin with a schema")
    return found


def is_arrow_file(source: BinaryIO) -> bool:
    """Whether it is an Arrow file, and no stream."""
    source.seek(0)
    return source.read(len(ARROW_FILE)) == ARROW_FILE


def _parse(header: bytes) -> tuple[str, int, int]:
    """Kind, rows, and bytes of the body of a message."""
    data = memoryview(header)
    try:
        table = follow(data, 0)
        kinds = {1: "schema", 2: "dictionary", 3: "record batch"}
        place = field(data, table, MESSAGE_HEADER - 1)
        kind = kinds.get(data[place] if place else 0)
        if kind is None:
            raise ValueError("a message of another kind than record batches")
        rows = 0
        if kind == "record batch":
            rows = int64(data, follow(data, field(data, table, MESSAGE_HEADER)), RECORD_BATCH_LENGTH)
        return kind, rows, int64(data, table, MESSAGE_BODY_LENGTH)
    except (struct.error, IndexError):
        raise ValueError("a damaged message header") from None


def record_batches(messages: list[Message]) -> list[Message]:
    """The messages that are record batches."""
    return [message for message in messages if message.kind == "record batch"]


def body_codec(source: BinaryIO, message: Message) -> str | None:
    """The compression of a record batch: `lz4`, `zstd` or none."""
    source.seek(message.start + 4)
    header = memoryview(source.read(struct.unpack("<I", source.read(4))[0]))
    batch = follow(header, field(header, follow(header, 0), MESSAGE_HEADER))
    compression = field(header, batch, RECORD_BATCH_COMPRESSION)
    if not compression:
        return None
    codec = field(header, follow(header, compression), BODY_COMPRESSION_CODEC)
    return "zstd" if codec and header[codec] == 1 else "lz4"


def arrow_schema(source: BinaryIO, messages: list[Message]) -> pa.Schema:
    """The schema of a file."""
    with pa.ipc.open_stream(_ranges(source, messages[:1])) as reader:
        return reader.schema


def arrow_batches(
    source: BinaryIO, messages: list[Message], start: int, stop: int | None, first_row: int
) -> Iterator[pa.RecordBatch]:
    """The rows of record batches [start, stop) from `first_row` on, in slices that are small to process."""
    wanted = record_batches(messages)[start:stop]
    skip = 0
    while skip < len(wanted) and first_row >= wanted[skip].rows:
        first_row -= wanted[skip].rows
        skip += 1
    wanted = wanted[skip:]
    if not wanted:
        return
    before = [m for m in messages if m.start < wanted[0].start and m.kind != "record batch"]
    after = [m for m in messages if wanted[0].start <= m.start <= wanted[-1].start]
    with pa.ipc.open_stream(_ranges(source, [*before, *after])) as reader:
        for batch in reader:
            _validate(batch)
            for row in range(first_row, len(batch), _SLICE_ROWS):
                yield batch.slice(row, _SLICE_ROWS)
            first_row = 0


def _validate(batch: pa.RecordBatch) -> None:
    """Raises ArrowInvalid where offsets or indices of a batch lead out of its data. Its texts need not be UTF-8."""
    views = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    batch.validate()
    for column in batch.columns:
        view = views.get(column.type)
        (column if view is None else column.view(view)).validate(full=True)


def _ranges(source: BinaryIO, messages: list[Message]) -> pa.PythonFile:
    return pa.PythonFile(_Ranges(source, messages), mode="r")


class _Ranges(io.RawIOBase):
    """The bytes of some messages, one after the other, as a file."""

    def __init__(self, source: BinaryIO, messages: list[Message]) -> None:
        self._source = source
        self._left: list[tuple[int, int]] = []
        for message in reversed(messages):
            if self._left and self._left[-1][0] == message.stop:
                self._left[-1] = message.start, self._left[-1][1]
            else:
                self._left.append((message.start, message.stop))

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        parts: list[bytes] = []
        while self._left and size:
            start, stop = self._left.pop()
            self._source.seek(start)
            part = self._source.read(stop - start if size < 0 else min(size, stop - start))
            if not part:
                break
            parts.append(part)
            size -= len(part) if size > 0 else 0
            if start + len(part) < stop:
                self._left.append((start + len(part), stop))
        return b"".join(parts)
