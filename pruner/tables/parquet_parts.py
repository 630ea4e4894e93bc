"""Parts of Parquet tables: some row groups each, read by themselves."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

_PART_ROWS, _PART_BYTES = 1 << 19, 256 << 20  # of a part, unless a single row group has more


class TablePart(NamedTuple):
    """Row groups [start, stop) of a table."""

    table: int  # its number, among several
    start: int
    stop: int
    first_row: int  # of the table
    rows: int
    size: int  # bytes of its columns, uncompressed


class PartedTable(Protocol):
    """A table, or several of the same columns one after the other, cut into parts."""

    @property
    def parts(self) -> Sequence[TablePart]:
        """The parts, in their order."""

    @property
    def schema(self) -> pa.Schema:
        """The columns."""

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a part. Several threads may call it. Raises InputError naming the table."""

    def name(self, table: int) -> str:
        """The path or URL of a table."""


def row_group_parts(table: int, metadata: pq.FileMetaData) -> Iterator[TablePart]:
    """Cuts a table into parts; none has no rows."""
    start, first, rows, size = 0, 0, 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if rows and (rows + group.num_rows > _PART_ROWS or size + group.total_byte_size > _PART_BYTES):
            yield TablePart(table, start, number, first, rows, size)
            start, first, rows, size = number, first + rows, 0, 0
        rows, size = rows + group.num_rows, size + group.total_byte_size
    if rows:
        yield TablePart(table, start, metadata.num_row_groups, first, rows, size)
