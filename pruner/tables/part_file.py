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

_GROUP_ROWS = 1 << 16


class PartWriter:
    """Writes rows in groups of one size, so that a file does not depend on the batches that its rows come in."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Adds rows."""
        while self._rows + len(batch) >= _GROUP_ROWS:
            taken = _GROUP_ROWS - self._rows
            self._held.append(batch.slice(0, taken))
            self.flush()
            batch = batch.slice(taken)
        if len(batch):
            self._held.append(batch)
            self._rows += len(batch)

    def flush(self) -> None:
        """Writes what is held."""
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held).combine_chunks())
        self._held, self._rows = [], 0


def create_part(
    stack: ExitStack, storage: Storage, path: str, schema: pa.Schema, metadata: Callable[[], Record]
) -> PartWriter:
    """A writer of the file, which appears when `stack` ends without an exception.

    The record that `metadata` returns then is stored as JSON under the metadata key `winnow`.
    """
    writer = pq.ParquetWriter(stack.enter_context(storage.create(path)), schema, compression="zstd")
    stack.enter_context(writer)
    rows = PartWriter(writer)

    def finish(kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if kind is None:
            rows.flush()
            writer.add_key_value_metadata({"winnow": orjson.dumps(metadata().model_dump())})

    stack.push(finish)
    return rows


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
