"""How public tables are written as Parquet: in row groups of one size, whatever the pieces that they are made of."""

from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 1 << 17  # of a row group


class TableWriter:
    """Writes a table to a file; it is complete when the `with` block ends. The same rows give the same bytes.

    Columns of numbers have no dictionaries: most of the time would go into looking for repeats.
    """

    def __init__(self, file: Any, schema: pa.Schema) -> None:
        """`file` is a writable file; it stays open."""
        repeating = [field.name for field in schema if not _is_number(field.type)]
        self._writer = pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeating)
        self._schema = schema
        self._held: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> "TableWriter":
        return self

    def add(self, rows: pa.Table) -> None:
        """Adds rows with the columns of the schema."""
        if len(rows):  # some readers cannot read row groups without rows
            self._held.append(rows)
            self._rows += len(rows)
        while self._rows >= GROUP_ROWS:
            held = pa.concat_tables(self._held)
            self._write(held.slice(0, GROUP_ROWS))
            self._rows -= GROUP_ROWS
            self._held = [held.slice(GROUP_ROWS)] if self._rows else []

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None and self._rows:
            self._write(pa.concat_tables(self._held))
        self._writer.close()

    def _write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.replace_schema_metadata(self._schema.metadata).combine_chunks())


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
