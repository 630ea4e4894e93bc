"""How public tables are written as Parquet."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def table_writer(file: Any, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a table. Columns of numbers have no dictionaries: most of the time would go into looking for repeats.

    The same rows in the same row groups give the same bytes.
    """
    repeating = [field.name for field in schema if not _is_number(field.type)]
    return pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeating)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))
