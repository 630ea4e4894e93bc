"""Messages of the reader: everything that it sends is a valid batch or refused."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.corpus.batches import make_piece, numbered
from pruner.corpus.plan import Plan, Shard
from pruner.corpus.protocol import ReaderFailed, decode_batch, decode_plan, encode_batch, encode_plan

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
    plan = Plan((), (Shard(0, 0, 1, 1, 2, None, 3, "d"),))
    assert decode_plan(memoryview(encode_plan(plan))) == plan
    for wrong in (b"", b"{}", b'{"files": [], "shards": [1]}'):
        with pytest.raises(ReaderFailed, match="invalid message"):
            decode_plan(memoryview(wrong))
