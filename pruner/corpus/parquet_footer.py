"""Parquet footers: reads them within limits that hostile files cannot exceed."""

import hashlib
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.growth import ROWS_FREE
from pruner.errors import InputError, reason

_FOOTER_BYTES_MAX = 64 << 20
_COLUMNS_MAX = 10_000
_ITEMS_MAX = 200_000  # of a list in a footer, such as the row groups or the columns


def read_footer(url: str, size: int, source: BinaryIO) -> pq.ParquetFile:
    """The reader of a Parquet file, whose footer was checked. Raises InputError if the footer is damaged or absurd."""
    try:
        parquet = pq.ParquetFile(source, thrift_container_size_limit=_ITEMS_MAX, pre_buffer=False)
        columns = len(parquet.schema_arrow)
    except MemoryError:  # Arrow's MemoryError is an ArrowException too
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{url}: its Parquet footer cannot be read ({reason(error)})") from None
    if columns > _COLUMNS_MAX:
        raise InputError(f"{url}: has {columns:,} columns; a corpus file may have {_COLUMNS_MAX:,}")
    rows = parquet.metadata.num_rows
    if rows > max(ROWS_FREE, size):
        raise InputError(f"{url}: its footer claims {rows:,} rows in {size:,} bytes; leave the file out")
    return parquet


def footer_digest(url: str, source: BinaryIO) -> str:
    """SHA-256 of the footer's bytes, 64 hex digits. Raises InputError if the file does not end in a footer."""
    size = source.seek(0, 2)
    source.seek(max(0, size - 8))
    tail = source.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length + 12 > size:
        raise InputError(f"{url}: not a whole Parquet file; it is truncated or has another format")
    if length > _FOOTER_BYTES_MAX:
        raise InputError(f"{url}: its Parquet footer claims {length:,} bytes; leave the file out")
    source.seek(size - 8 - length)
    return hashlib.sha256(source.read(length)).hexdigest()
