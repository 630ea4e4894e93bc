"""Messages of the reader: everything that it sends is a valid batch or refused."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.corpus.batches import make_piece, numbered
from pruner.corpus.files import CorpusFile
from pruner.corpus.listing import LeftOut
from pruner.corpus.paths import CorpusPath
from pruner.corpus.plan import Plan
from pruner.corpus.plan_rows import SHARDS, file_rows, shard_rows
from pruner.corpus.protocol import (
    ReaderFailed,
    decode_batch,
    decode_plan,
    decode_rows,
    encode_batch,
    encode_left_out,
    encode_rows,
)
from pruner.corpus.shard import Shard

NOT_SHARED = memoryview(b"")


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize(
    "source", [None, pa.StructArray.from_arrays([pa.array(["x" * 99]).dictionary_encode()], ["a"])]
)
def test_compressed_messages_are_refused(compression: str, source: Any) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    sink, batch = pa.BufferOutputStream(), made("x" * 9999, source=source)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as stream:
        stream.write_batch(batch)
    with pytest.raises(ReaderFailed, match="compressed"):
        decode_batch(memoryview(sink.getvalue()), 1)


def made(*texts: str | None, source: Any = None) -> pa.RecordBatch:
    nothing = pa.nulls(len(texts), pa.string())
    rejects = pa.array([None if text else "empty text" for text in texts], pa.string())
    piece = make_piece(pa.array(texts, pa.large_string()), nothing, nothing, rejects, source)
    return next(numbered([piece], 0, 0))


def test_batches_of_other_columns_or_sizes_are_refused() -> None:
    batch = made("a", None)
    assert decode_batch(encode_batch(batch, NOT_SHARED), 1) == batch
    both = batch.set_column(6, "reject", pa.array(["why", "why"]))
    elsewhere = batch.set_column(0, "file", pa.array([0, 1], pa.int32()))
    for wrong in (batch.select(["text", "id"]), batch.slice(0, 0), both, elsewhere, made(*["a"] * 3000)):
        with pytest.raises(ReaderFailed, match="invalid message"):
            decode_batch(encode_batch(wrong, NOT_SHARED), 1)


def test_a_wrong_count_of_nulls_is_refused() -> None:
    batch = made("a", None)
    for name, count in (("text", 0), ("reject", 2)):
        column = batch[name]
        lying = pa.Array.from_buffers(column.type, len(column), column.buffers(), null_count=count)
        wrong = batch.set_column(batch.schema.get_field_index(name), name, lying)
        with pytest.raises(ReaderFailed, match="invalid message"):
            decode_batch(encode_batch(wrong, NOT_SHARED), 1)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=6), st.floats(0, 1) | st.just(1.0)
)
@settings(max_examples=500, deadline=None)
def test_a_damaged_message_is_a_valid_batch_or_refused(changes: list[tuple[float, bytes]], cut: float) -> None:
    source = pa.StructArray.from_arrays([pa.array(["x", "y"]).dictionary_encode(), pa.array([[1], []])], ["a", "b"])
    data = bytearray(encode_batch(made("é" * 9, None, source=source), NOT_SHARED))
    for place, piece in changes:
        start = int(place * (len(data) - 1))
        data[start : start + len(piece)] = piece
    try:
        batch = decode_batch(memoryview(bytes(data[: int(cut * len(data))])), 1)
    except ReaderFailed:
        return
    batch.to_pylist()


def test_plans_are_the_same_after_they_are_sent() -> None:
    files = [CorpusFile(CorpusPath("s3", f"b/é-{n}.gz"), "jsonl", "gzip", n, "v", "é", None) for n in range(3)]
    shards = [Shard(0, 0, 2, 0, 0, None, 3, "d"), Shard(1, 2, 1, 4, 5, 6, 7, "e")]
    plan = Plan(files, shards, (LeftOut("why", 2, "x"),))
    rows = [file_rows(files[:2]), shard_rows(shards), file_rows(files[2:])]
    sent = [decode_rows(encode_rows(batch)) for batch in rows]
    assert decode_plan(sent, memoryview(encode_left_out(plan.left_out))) == plan
    for wrong in (b"", b"{}", b"[1]"):
        with pytest.raises(ReaderFailed, match="invalid message"):
            decode_plan(sent, memoryview(wrong))
    with pytest.raises(ReaderFailed, match="shards of unknown files"):
        decode_plan(sent[:2], memoryview(b"[]"))
    nulls = pa.record_batch([pa.nulls(1, field.type) for field in SHARDS], schema=SHARDS)
    for other in (made("a"), nulls):
        with pytest.raises(ReaderFailed, match="invalid message"):
            decode_rows(encode_batch(other, NOT_SHARED))
