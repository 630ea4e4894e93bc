"""The Parquet file of one shard, with a JSON record in its metadata; it appears only when it is complete."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.errors import InputError, reason
from pruner.tables.records import Record, RecordType, parse_record
from pruner.tables.storage import Storage

_GROUP_ROWS = 1 << 16
Writer = TypeVar("Writer", bound="PartFileWriter")


class PartFileWriter(ABC):
    """Writes the file of a shard, which appears when the `with` block ends without an exception.

    Rows are written in groups of one size, so that a file does not depend on the batches that its rows come in. What
    `_metadata` returns in the end is stored as JSON under the metadata key `winnow`.
    """

    def __init__(self, storage: Storage, path: str, schema: pa.Schema) -> None:
        self._storage, self._path, self._schema = storage, path, schema
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0

    def __enter__(self: Writer) -> Writer:
        with ExitStack() as stack:
            file = stack.enter_context(self._storage.create(self._path))
            self._writer = stack.enter_context(pq.ParquetWriter(file, self._schema, compression="zstd"))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    @abstractmethod
    def _metadata(self) -> Record:
        """The record of the file, when all rows were written."""

    def _write(self, columns: list[Any]) -> None:
        """Adds rows: an Arrow array [rows] for each field of the schema."""
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        while self._held_rows + len(batch) >= _GROUP_ROWS:
            taken = _GROUP_ROWS - self._held_rows
            self._held.append(batch.slice(0, taken))
            self._write_group()
            batch = batch.slice(taken)
        if len(batch):
            self._held.append(batch)
            self._held_rows += len(batch)

    def _write_group(self) -> None:
        if self._held:
            self._writer.write_table(pa.Table.from_batches(self._held).combine_chunks())
        self._held, self._held_rows = [], 0

    def _finish(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_group()
            self._writer.add_key_value_metadata({"winnow": orjson.dumps(self._metadata().model_dump())})


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
