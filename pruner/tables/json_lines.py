"""Converts a Parquet table to JSON lines, a column at a time."""

from collections.abc import Callable

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pruner.tables.hashing_writer import HashingWriter, WrittenFile
from pruner.tables.records import Record, read_record, write_record
from pruner.tables.storage import Storage

_ROWS = 1 << 14  # converted at a time
_ESCAPED = '["\\\\\\x00-\\x1f]'  # characters that JSON strings do not hold as they are


class JsonLinesRecord(Record):
    """`<table>.jsonl.json`: written when the JSON lines beside it are there."""

    file: WrittenFile


def as_json_lines(storage: Storage, folder: str, table: str) -> WrittenFile:
    """Makes `<table>.jsonl` of `<table>.parquet` in a folder, unless it is there. Raises FileNotFoundError."""
    record = f"{folder}/{table}.jsonl.json"
    try:
        return read_record(storage, record, JsonLinesRecord).file
    except FileNotFoundError:
        made = write_json_lines(storage, f"{folder}/{table}.parquet", f"{folder}/{table}.jsonl", lambda: None)
        write_record(storage, record, JsonLinesRecord(file=made))
        return made


def write_json_lines(storage: Storage, parquet_path: str, path: str, beat: Callable[[], None]) -> WrittenFile:
    """Writes the rows of a Parquet file as JSON lines; numbers that JSON does not have (NaN, infinity) become null.

    Calls `beat` every 16,384 rows. Raises FileNotFoundError.
    """
    with storage.open(parquet_path) as source, storage.create(path) as file:
        out = HashingWriter(file)
        for batch in pq.ParquetFile(source).iter_batches(_ROWS):
            if len(batch):
                out.write(json_lines(batch))
            beat()
    return out.written


def json_lines(batch: pa.RecordBatch) -> memoryview:
    """The rows as JSON lines."""
    pieces: list[pa.Array | pa.Scalar] = []
    start = "{"
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        pieces += [pa.scalar(f"{start}{orjson.dumps(name).decode()}:"), _values(column)]
        start = ","
    lines = pc.binary_join_element_wise(*pieces, pa.scalar("}\n"), "")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)
    return memoryview(lines.buffers()[2])[: offsets[len(lines)]]


def _values(column: pa.Array) -> pa.Array:
    """Each value as JSON, a string array."""
    if pa.types.is_string(column.type):
        return _strings(column)
    if pa.types.is_boolean(column.type):
        values = pc.if_else(column, "true", "false")
    elif pa.types.is_integer(column.type):
        values = column.cast(pa.string())
    elif pa.types.is_floating(column.type):
        values = _floats(column.cast(pa.float64()))
    else:
        values = pa.array([orjson.dumps(value).decode() for value in column.to_pylist()], pa.string())
    return pc.fill_null(values, "null")


def _floats(column: pa.Array) -> pa.Array:
    """Floats with the shortest digits that give them back. Each is written with the comma after it, then cut off."""
    data = orjson.dumps(pc.fill_null(column, float("nan")).to_numpy(), option=orjson.OPT_SERIALIZE_NUMPY)
    data = data[1:-1] + b","
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(",")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    with_comma = pa.StringArray.from_buffers(len(column), pa.py_buffer(offsets), pa.py_buffer(data))
    return pc.utf8_slice_codeunits(with_comma, 0, -1)


def _strings(column: pa.Array) -> pa.Array:
    if pc.any(pc.match_substring_regex(column, _ESCAPED)).as_py():
        values = [None if value is None else orjson.dumps(value).decode() for value in column.to_pylist()]
        quoted = pa.array(values, pa.string())
    else:
        quoted = pc.binary_join_element_wise(pa.scalar('"'), column, pa.scalar('"'), "")
    return pc.fill_null(quoted, "null")
