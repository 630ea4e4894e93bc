"""The Parquet file of one shard, with a JSON record in its metadata; it appears only when it is complete."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.errors import InputError, reason
from pruner.tables.records import Record, RecordType, parse_record
from pruner.tables.storage import Storage


def create_part(
    stack: ExitStack, storage: Storage, path: str, schema: pa.Schema, metadata: Callable[[], Record]
) -> pq.ParquetWriter:
    """A writer of the file, which appears when `stack` ends without an exception.

    The record that `metadata` returns then is stored as JSON under the metadata key `winnow`.
    """
    writer = pq.ParquetWriter(stack.enter_context(storage.create(path)), schema, compression="zstd")
    stack.enter_context(writer)

    def finish(kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is None:
            writer.add_key_value_metadata({"winnow": orjson.dumps(metadata().model_dump())})

    stack.push(finish)
    return writer


def read_metadata(storage: Storage, path: str, kind: type[RecordType]) -> RecordType:
    """The record of a file; reads no column.

    Raises FileNotFoundError, and InputError for a damaged file or another format version.
    """
    with storage.open(path) as source, named_damage(storage, path):
        metadata = pq.read_metadata(source).metadata or {}
    return parse_record(metadata.get(b"winnow", b"{}"), kind, path)


def read_part(storage: Storage, path: str, kind: type[RecordType]) -> tuple[pa.Table, RecordType]:
    """All columns of a file, and its record. Raises as `read_metadata` does."""
    with storage.open(path) as source, named_damage(storage, path):
        parquet = pq.ParquetFile(source)
        return parquet.read(), parse_record((parquet.metadata.metadata or {}).get(b"winnow", b"{}"), kind, path)


@contextmanager
def named_damage(storage: Storage, path: str) -> Iterator[None]:
    """Raises InputError naming the file if Arrow cannot read it inside the block."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{storage.url}/{path}: is damaged ({reason(error)}); remove it and start again, it is made anew"
        ) from None
