"""A table of a storage, one Parquet file or a folder of parts, read in parts, row groups or ranges of rows."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.tables.parquet_parts import TablePart, row_group_parts
from pruner.tables.part_file import named_damage
from pruner.tables.storage import Storage
from pruner.tables.table_files import table_files


class RowGroup(NamedTuple):
    """A row group of a table."""

    file: int  # its number, among the files of the table
    number: int  # in the file
    first_row: int  # of the table
    rows: int


class StoredTable:
    """A table of a storage. Methods raise FileNotFoundError, and InputError naming a file that is damaged."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._files = table_files(storage, path)
        self._footers: list[pq.FileMetaData] = []
        for file in self._files:
            with storage.open(file) as source, named_damage(storage, file):
                self._footers.append(pq.read_metadata(source))

    @cached_property
    def parts(self) -> tuple[TablePart, ...]:
        """The parts, in their order."""
        parts: list[TablePart] = []
        first = 0
        for number, footer in enumerate(self._footers):
            parts += [part._replace(first_row=first + part.first_row) for part in row_group_parts(number, footer)]
            first += footer.num_rows
        return tuple(parts)

    @cached_property
    def groups(self) -> tuple[RowGroup, ...]:
        """The row groups, in their order."""
        groups: list[RowGroup] = []
        first = 0
        for file, footer in enumerate(self._footers):
            for number in range(footer.num_row_groups):
                rows = footer.row_group(number).num_rows
                groups.append(RowGroup(file, number, first, rows))
                first += rows
        return tuple(groups)

    @property
    def schema(self) -> pa.Schema:
        """The columns."""
        return self._footers[0].schema.to_arrow_schema()

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(footer.num_rows for footer in self._footers)

    def name(self, table: int) -> str:
        """The path of a file of the table."""
        return self._files[table]

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Some columns of a part."""
        at = self.parts[part]
        return self._read(at.table, range(at.start, at.stop), columns)

    def read_group(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Some columns of a row group, in the order of the table."""
        return self._read(group.file, range(group.number, group.number + 1), columns)

    def read_rows(self, start: int, rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Rows [start, start + rows), a row group at a time, with the columns in the order given."""
        stop = start + rows
        for group in self.groups:
            if group.first_row < stop and group.first_row + group.rows > start:
                begin = max(0, start - group.first_row)
                piece = self.read_group(group, columns).slice(begin, stop - group.first_row - begin)
                yield from piece.select(list(columns)).to_batches()

    def _read(self, file: int, groups: range, columns: Sequence[str]) -> pa.Table:
        path = self._files[file]
        with self._storage.open(path) as source, named_damage(self._storage, path):
            parquet = pq.ParquetFile(source, metadata=self._footers[file])
            return parquet.read_row_groups(groups, list(columns), use_threads=False)


def table_batches(
    storage: Storage, path: str, columns: list[str], dictionary: Sequence[str] = ()
) -> Iterator[pa.RecordBatch]:
    """The rows of a table with some columns, those in `dictionary` encoded so. Raises FileNotFoundError."""
    for file in table_files(storage, path):
        with storage.open(file) as source:
            yield from pq.ParquetFile(source, read_dictionary=list(dictionary)).iter_batches(columns=columns)
