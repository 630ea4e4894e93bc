"""Messages between the sandbox and its reader process.

A request is JSON with its length before it (8 bytes, little-endian). A response is a series of messages. A message is a
kind (one byte), the length of its content (8 bytes, little-endian), and the content:

    READY    nothing: the reader has started
    LISTING  a path of the corpus, which is listed next, as JSON
    LISTED   the number of files that were listed so far, as JSON
    FILE     the URL of a file, which is looked at next, as JSON
    ALIVE    nothing: reading goes on
    ROWS     an Arrow IPC stream of one record batch: files or shards of a plan
    PLAN     what a plan leaves out, as JSON; after all its rows
    CHECK    a `CorpusCheck` as JSON
    BATCH    an Arrow IPC stream of one record batch
    SHARED   nothing: the length is that of such a stream in the memory that both processes share
    END      nothing: the response is complete
    FAILURE  a `Failure` as JSON

A pipe copies through pages of the kernel, which takes twice as long as the shared memory. The parent copies the stream
out of it, because the reader can still change it, and answers with one byte. Batches that are larger than this memory
go through the pipe.

The reader may be under the control of a hostile file, so everything that it sends is validated.
"""

import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, TypeAdapter, ValidationError

from pruner.corpus.batches import BATCH_ROWS, SCHEMA, SOURCE
from pruner.corpus.check import CorpusCheck
from pruner.corpus.files import CorpusFile
from pruner.corpus.flatbuffers import DICTIONARY_DATA, MESSAGE_HEADER, RECORD_BATCH_COMPRESSION, field, follow
from pruner.corpus.listing import LeftOut
from pruner.corpus.plan import Plan
from pruner.corpus.plan_rows import FILES, SHARDS, column
from pruner.corpus.shard import Shard
from pruner.spec import CorpusSpec

READY, LISTING, LISTED, FILE, ALIVE, ROWS, PLAN, CHECK, BATCH, SHARED, END, FAILURE = (
    b"%c" % letter for letter in b"RLNFAOPCBSEX"
)
HEAD = struct.Struct("<cQ")
LENGTH = struct.Struct("<Q")
CONTENT_BYTES_MAX = 1 << 30  # a batch with the longest texts and labels
SHARED_BYTES = 8 << 20  # enough for most batches
TAKEN = b"\x00"  # the parent's answer to SHARED
_MAY_BE_NULL = {"compression", "footer", "rows"}  # columns of the rows of a plan


class ReaderFailed(Exception):
    """The reader ran out of memory, died, hung or sent an invalid message.

    The message continues a sentence about the file. `file` is the one that the reader reported last, if any.
    """

    def __init__(self, message: str, file: str | None = None) -> None:
        super().__init__(message)
        self.file = file


def invalid(why: object) -> ReaderFailed:
    """The error to raise for an invalid message."""
    return ReaderFailed(f"makes the reader send an invalid message ({' '.join(str(why).split())})")


class ReadRequest(BaseModel):
    """Which rows of a shard to read."""

    files: tuple[CorpusFile, ...]
    shard: Shard
    columns: tuple[str, ...] | None  # None: all
    first_row: int
    only_one: bool  # just the first row


class Request(BaseModel):
    """Reads a shard; if `read` is None, plans a corpus, or only looks at it."""

    spec: CorpusSpec
    roots: tuple[str, ...] | None
    careful: bool  # slower, with less memory: one file or row at a time
    ignored: tuple[str, ...] = ()  # of a plan: what is no part of the corpus, see `list_files`
    numbers: tuple[str, ...] = ()  # of a plan: fields that give scores
    read: ReadRequest | None = None
    check: bool = False


class Failure(BaseModel):
    """Why the reader could not answer."""

    kind: Literal["input", "memory", "os", "other"]
    message: str
    errno: int | None = None


_LEFT_OUT = TypeAdapter(tuple[LeftOut, ...])


def encode_rows(batch: pa.RecordBatch) -> memoryview:
    """Rows of a plan as an Arrow IPC stream."""
    return encode_batch(batch, memoryview(b""))


def encode_left_out(left_out: tuple[LeftOut, ...]) -> bytes:
    """What a plan leaves out as JSON."""
    return _LEFT_OUT.dump_json(left_out)


def decode_rows(content: memoryview) -> pa.RecordBatch:
    """Parses rows of a plan, files or shards. Raises ReaderFailed."""
    try:
        batch = _decode_stream(content)
        if batch.schema not in (FILES, SHARDS):
            raise invalid(f"columns {batch.schema.names} of types {batch.schema.types}")
        batch.validate(full=True)
    except (pa.ArrowException, OSError, StopIteration, ValueError) as error:
        raise invalid(error) from None
    if any(batch[name].null_count for name in batch.schema.names if name not in _MAY_BE_NULL):
        raise invalid("nulls among the rows of a plan")
    return batch


def decode_plan(rows: Sequence[pa.RecordBatch], content: memoryview) -> Plan:
    """Makes a plan of its rows and what it leaves out. Raises ReaderFailed."""
    try:
        plan = Plan.of(rows, _LEFT_OUT.validate_json(bytes(content)))
    except ValidationError as error:
        raise invalid(error) from None
    first, files = (np.array(column(plan.shards, name), np.int64) for name in ("file", "files"))
    if (first < 0).any() or (files < 1).any() or (first > len(plan.files) - files).any():
        raise invalid("shards of unknown files")
    return plan


def decode_number(content: memoryview) -> int:
    """Parses a number of files. Raises ReaderFailed."""
    try:
        return TypeAdapter(int).validate_json(bytes(content))
    except ValidationError as error:
        raise invalid(error) from None


def decode_check(content: memoryview) -> CorpusCheck:
    """Parses what was found in a corpus. Raises ReaderFailed."""
    try:
        return CorpusCheck.model_validate_json(bytes(content))
    except ValidationError as error:
        raise invalid(error) from None


def encode_batch(batch: pa.RecordBatch, shared: memoryview) -> memoryview:
    """A batch as an Arrow IPC stream: in the `shared` memory if it is large enough, else in other memory."""
    if shared:
        with suppress(OSError):  # it does not fit
            return shared[: _write(batch, pa.FixedSizeBufferWriter(pa.py_buffer(shared)))]
    content = memoryview(pa.allocate_buffer(_write(batch, pa.MockOutputStream())))
    _write(batch, pa.FixedSizeBufferWriter(pa.py_buffer(content)))
    return content


def _write(batch: pa.RecordBatch, sink: pa.NativeFile) -> int:
    """Writes the stream of a batch; returns its length."""
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return int(sink.tell())


def decode_batch(content: memoryview, files: int) -> pa.RecordBatch:
    """Parses a batch of a shard of `files` files, whose buffers are those of `content`. Raises ReaderFailed.

    Compressed buffers are refused: a few bytes could become gigabytes. So the batch is never larger than its message.
    """
    try:
        batch = _decode_stream(content)
        if batch.schema != SCHEMA and not _has_source(batch.schema):
            raise invalid(f"columns {batch.schema.names} of types {batch.schema.types}")
        if not 0 < len(batch) <= BATCH_ROWS:
            raise invalid(f"a batch of {len(batch)} rows")
        batch.validate(full=True)
        file, row, text, reject = (batch[name] for name in ("file", "row", "text", "reject"))
        all_are_documents = text.null_count == 0 and reject.null_count == len(batch)
        if not all_are_documents and not text.is_null().equals(reject.is_valid()):
            raise invalid("rows with both text and reject, or with neither")
        numbers = memoryview(file.buffers()[1])[: 4 * len(batch)].cast("i")  # for so few, faster than NumPy
        if file.null_count or row.null_count or not 0 <= min(numbers) <= max(numbers) < files:
            raise invalid("rows of unknown files")
    except (pa.ArrowException, OSError, StopIteration, ValueError) as error:
        raise invalid(error) from None
    return batch


def _has_source(schema: pa.Schema) -> bool:
    """Whether the columns are those of SCHEMA and the struct `source`."""
    *fields, source = schema
    return fields == list(SCHEMA) and source.name == SOURCE and bool(pa.types.is_struct(source.type))


def _decode_stream(content: memoryview) -> pa.RecordBatch:
    """The batch of an Arrow IPC stream, not validated. Raises ReaderFailed, and errors of Arrow."""
    source = pa.BufferReader(content)
    messages: list[pa.ipc.Message] = []
    try:
        while source.tell() < len(content):
            messages.append(pa.ipc.read_message(source))
            if _is_compressed(messages[-1]):
                raise invalid("compressed buffers")
    except EOFError:  # the end-of-stream marker
        pass
    except struct.error as error:
        raise invalid(error) from None
    if [message.type for message in messages] == ["schema", "record batch"]:  # faster than another look at the stream
        return pa.ipc.read_record_batch(messages[1], pa.ipc.read_schema(messages[0]))
    with pa.ipc.open_stream(pa.BufferReader(content)) as stream:
        return stream.read_next_batch()


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether a message has compressed buffers. pyarrow does not tell, so this follows its FlatBuffers metadata."""
    if message.type == "schema":
        return False
    data = memoryview(message.metadata)
    header = follow(data, field(data, follow(data, 0), MESSAGE_HEADER))
    if message.type == "dictionary":
        header = follow(data, field(data, header, DICTIONARY_DATA))
    return field(data, header, RECORD_BATCH_COMPRESSION) != 0
