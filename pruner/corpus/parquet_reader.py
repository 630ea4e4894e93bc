"""Decodes row groups of a Parquet file in small steps."""

from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.arrow_fields import find_field

_READ_BYTES, _READ_BYTES_MIN = 1 << 20, 1 << 13  # read of a column at a time
_BUFFERS_BYTES = 64 << 20  # of all columns
_DECODE_BYTES = 4 << 20  # decoded at a time, by the sizes in the footer


def open_parquet(source: BinaryIO, int96_unit: str = "ns") -> pq.ParquetFile:
    """A reader of the file. No pre-buffering: it would hold whole row groups in memory.

    Times that are stored as INT96 have the unit `int96_unit`.
    """
    metadata = pq.read_metadata(source)
    buffer_size = max(_READ_BYTES_MIN, min(_READ_BYTES, _BUFFERS_BYTES // max(1, metadata.num_columns)))
    return pq.ParquetFile(
        source,
        metadata=metadata,
        pre_buffer=False,
        buffer_size=buffer_size,
        coerce_int96_timestamp_unit=int96_unit,
    )


def parquet_batches(
    parquet: pq.ParquetFile, groups: range, fields: list[str] | None, first_row: int, decode_rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups from `first_row` on, at most `decode_rows` decoded at a time.

    Only the columns that hold `fields` are read; None reads all.
    """
    schema = parquet.metadata.schema
    places = [find_field(parquet.schema_arrow, field) for field in fields or ()]
    paths = [place.path for place in places if place is not None]
    leaves = [i for i in range(len(schema)) if fields is None or is_below_path(schema.column(i).path, paths)]
    skip = first_row
    for number in groups:
        group = parquet.metadata.row_group(number)
        if skip >= group.num_rows:
            skip -= group.num_rows
            continue
        size = sum(group.column(i).total_uncompressed_size for i in leaves)
        rows = max(1, min(decode_rows, _DECODE_BYTES * group.num_rows // max(1, size)))
        columns = None if fields is None else paths
        for batch in parquet.iter_batches(rows, row_groups=[number], columns=columns, use_threads=False):
            if skip < len(batch):
                yield batch.slice(skip)
            skip = max(0, skip - len(batch))


def is_below_path(leaf: str, paths: list[str]) -> bool:
    """Whether the dotted path of a leaf column is one of the paths, or lies below one."""
    return any(leaf == path or leaf.startswith(f"{path}.") for path in paths)
