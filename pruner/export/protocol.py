"""Messages between an export and its reader process, beside those of pruner.corpus.protocol.

A request is an `ExportRequest`. A response has, before its end:

    DATA  the next bytes of the exported file, at most DATA_BYTES_MAX
    KEPT  the number of a piece of kept rows (8 bytes, little-endian), which the parent sends as an Arrow IPC stream
"""

from dataclasses import dataclass

import pyarrow as pa
from pydantic import BaseModel

from pruner.corpus.files import CorpusFile
from pruner.corpus.protocol import LENGTH, invalid
from pruner.export.formats import RowFormat

DATA, KEPT = b"D", b"K"
DATA_BYTES_MAX = 1 << 20
_PIECE_ROWS = 1 << 14
ROW = "row"  # the first column of kept rows


@dataclass(frozen=True)
class LineRange:
    """The part of a file of JSON lines that a shard has: the lines that start in bytes [start, stop) of its text.

    `stop` 0 is the end of the file. The first of these lines is row `first_row` of the file.
    """

    start: int = 0
    stop: int = 0
    first_row: int = 0


WHOLE = LineRange()


class ExportRequest(BaseModel):
    """Which file to export, and how."""

    file: CorpusFile
    target: RowFormat
    text_field: str
    lines: LineRange
    rows: int  # kept, in all
    roots: tuple[str, ...] | None
    careful: bool  # slower, with less memory: one row is decoded at a time


def encode_piece(kept: pa.Table, content: memoryview) -> bytes:
    """The piece of the kept rows that a message KEPT asks for. Raises ReaderFailed."""
    if len(content) != LENGTH.size:
        raise invalid("no number of a piece")
    piece = kept.slice(LENGTH.unpack(content)[0] * _PIECE_ROWS, _PIECE_ROWS)
    if not len(piece):
        raise invalid("the number of a piece that is not there")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, piece.schema) as stream:
        stream.write_batch(piece.combine_chunks().to_batches()[0])
    return bytes(sink.getvalue())


def decode_piece(content: bytes) -> pa.RecordBatch:
    """A piece of the kept rows."""
    with pa.ipc.open_stream(content) as stream:
        return stream.read_next_batch()
