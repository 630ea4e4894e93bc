"""Files of a job's artefacts for downloads: their size and hash, JSON lines made of Parquet when they are asked for."""

from typing import Literal

from pruner.select.selection import read_selection
from pruner.select.write_index import read_files
from pruner.tables.hashing_writer import WrittenFile
from pruner.tables.json_lines import write_json_lines
from pruner.tables.records import Record, read_record, write_record
from pruner.tables.storage import Storage


class JsonLinesRecord(Record):
    """`<table>.jsonl.json`: written when the JSON lines beside it are there."""

    file: WrittenFile


def download(storage: Storage, folder: str, table: str, kind: Literal["parquet", "jsonl"]) -> WrittenFile:
    """Size and SHA-256 of a table in a folder. Raises FileNotFoundError if it is not there."""
    if kind == "parquet":
        files = read_selection(storage, folder).files if table == "manifest" else read_files(storage, folder).files
        return files[f"{table}.parquet"]
    path = f"{folder}/{table}.jsonl.json"
    try:
        return read_record(storage, path, JsonLinesRecord).file
    except FileNotFoundError:
        made = write_json_lines(storage, f"{folder}/{table}.parquet", f"{folder}/{table}.jsonl", lambda: None)
        write_record(storage, path, JsonLinesRecord(file=made))
        return made
