"""Files and shards of a plan as columns, which take a quarter of the memory of objects, and are made on demand."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import pyarrow as pa

from pruner.corpus.files import CorpusFile
from pruner.corpus.paths import CorpusPath
from pruner.corpus.shard import Shard

FILES = pa.schema(
    [
        pa.field("scheme", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("compression", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("relative", pa.string(), nullable=False),
        pa.field("footer", pa.string()),
    ]
)
SHARDS = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.int64()),
        ("files", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("rows", pa.int64()),
        ("text_bytes", pa.int64()),
        ("digest", pa.string()),
    ]
)
BATCH_ROWS = 1 << 12  # made at a time
_BLOCK_ROWS = 64  # made where one is asked for: the next ones often follow

Row = TypeVar("Row")


class PlanRows(Sequence[Row], Generic[Row]):
    """A sequence of the objects that the rows of a table stand for. Equal to any sequence of equal objects."""

    def __init__(self, table: pa.Table, make: Callable[..., Row]) -> None:
        """`make` is given the values of a row."""
        self.table, self._make = table.combine_chunks(), make
        self._recent: tuple[int, tuple[Row, ...]] = -1, ()  # the block that was read last, and its number

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, at: int) -> Row: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Row, ...]: ...

    def __getitem__(self, at: int | slice) -> Row | tuple[Row, ...]:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            return tuple(self._rows(start, max(start, stop)))[::step] if step > 0 else tuple(self)[at]
        number = at + len(self) if at < 0 else at
        if not 0 <= number < len(self):
            raise IndexError(at)
        block, made = self._recent
        if block != number // _BLOCK_ROWS:
            block = number // _BLOCK_ROWS
            made = tuple(self._rows(block * _BLOCK_ROWS, (block + 1) * _BLOCK_ROWS))
            self._recent = block, made
        return made[number - block * _BLOCK_ROWS]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self), BATCH_ROWS):
            yield from self._rows(start, start + BATCH_ROWS)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _rows(self, start: int, stop: int) -> Iterator[Row]:
        columns = self.table.slice(start, stop - start).columns
        return map(self._make, *(column.to_pylist() for column in columns))


def column(rows: Sequence[Any], name: str) -> list[Any]:
    """One value of each row, quicker than of objects."""
    if isinstance(rows, PlanRows):
        values: list[Any] = rows.table[name].to_pylist()
        return values
    return [getattr(row, name) for row in rows]


def planned_files(table: pa.Table) -> PlanRows[CorpusFile]:
    """The files of a table with the columns of FILES."""

    def make(scheme: str, path: str, *others: Any) -> CorpusFile:
        return CorpusFile(CorpusPath(scheme, path), *others)

    return PlanRows(table, make)


def planned_shards(table: pa.Table) -> PlanRows[Shard]:
    """The shards of a table with the columns of SHARDS."""
    return PlanRows(table, Shard)


def file_rows(files: Iterable[CorpusFile]) -> pa.RecordBatch:
    """Files as rows of FILES."""
    rows = [
        (
            file.path.scheme,
            file.path.path,
            file.format,
            file.compression,
            file.size,
            file.version,
            file.relative,
            file.footer,
        )
        for file in files
    ]
    return _batch(rows, FILES)


def shard_rows(shards: Iterable[Shard]) -> pa.RecordBatch:
    """Shards as rows of SHARDS."""
    return _batch([tuple(getattr(shard, name) for name in SHARDS.names) for shard in shards], SHARDS)


def _batch(rows: list[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)
