"""Converts a Parquet table to JSON lines."""

from collections.abc import Callable

import orjson
import pyarrow.parquet as pq

from pruner.tables.hashing_writer import HashingWriter, WrittenFile
from pruner.tables.records import Record, read_record, write_record
from pruner.tables.storage import Storage

_ROWS = 1 << 14  # converted at a time


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
            names = batch.schema.names
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            options = orjson.OPT_APPEND_NEWLINE
            out.write(b"".join(orjson.dumps(dict(zip(names, row, strict=True)), option=options) for row in rows))
            beat()
    return out.written
