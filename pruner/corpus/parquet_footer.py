"""Parquet footers: reads and checks them against the corpus' fields, within limits that hostile files cannot exceed."""

import hashlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.files import CorpusFile
from pruner.corpus.paths import Roots
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec

ROWS_FREE = 1_000_000  # rows that a file of any size may have; more than these need at least a byte each
_FOOTER_BYTES_MAX = 64 << 20
_COLUMNS_MAX = 10_000
_ITEMS_MAX = 200_000  # of a list in a footer, such as the row groups or the columns


@dataclass(frozen=True)
class Footer:
    """What planning needs of a Parquet footer."""

    digest: str  # SHA-256 of its bytes, 64 hex digits
    groups: list[tuple[int, int]]  # rows and bytes of text of each row group


def read_footer(file: CorpusFile, spec: CorpusSpec, roots: Roots) -> Footer:
    """Reads the footer of a Parquet file. Raises InputError if it is damaged or lacks a field of the corpus."""
    with file.open(roots) as source:
        digest = footer_digest(file, source)
        try:
            metadata = pq.ParquetFile(source, thrift_container_size_limit=_ITEMS_MAX).metadata
            schema = metadata.schema.to_arrow_schema()
        except MemoryError:  # Arrow's MemoryError is an ArrowException too
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{file.url}: its Parquet footer cannot be read ({reason(error)})") from None
    if len(schema) > _COLUMNS_MAX:
        raise InputError(f"{file.url}: has {len(schema):,} columns; a corpus file may have {_COLUMNS_MAX:,}")
    if metadata.num_rows > max(ROWS_FREE, file.size):
        raise InputError(
            f"{file.url}: its footer claims {metadata.num_rows:,} rows in {file.size:,} bytes; leave the file out"
        )
    _check_field(file, schema, "text_field", spec.text_field)
    for name, field in (("id_field", spec.id_field), ("domain_field", spec.domain_field)):
        if field is not None:
            _check_field(file, schema, name, field)
    columns = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    text = columns.index(spec.text_field)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return Footer(digest, [(group.num_rows, group.column(text).total_uncompressed_size) for group in groups])


def footer_digest(file: CorpusFile, source: BinaryIO) -> str:
    """SHA-256 of the footer's bytes, 64 hex digits. Raises InputError if the file does not end in a footer."""
    size = source.seek(0, 2)
    source.seek(max(0, size - 8))
    tail = source.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length + 12 > size:
        raise InputError(f"{file.url}: not a whole Parquet file; it is truncated or has another format")
    if length > _FOOTER_BYTES_MAX:
        raise InputError(f"{file.url}: its Parquet footer claims {length:,} bytes; leave the file out")
    source.seek(size - 8 - length)
    return hashlib.sha256(source.read(length)).hexdigest()


def is_string_like(kind: Any) -> bool:
    """Whether the values of an Arrow type are strings, or bytes that may be UTF-8."""
    types = pa.types
    checks = (types.is_string, types.is_large_string, types.is_string_view)
    return any(check(kind) for check in (*checks, types.is_binary, types.is_large_binary, types.is_binary_view))


def _check_field(file: CorpusFile, schema: Any, name: str, field: str) -> None:
    if field not in schema.names:
        names = ", ".join(schema.names[:20]) + (", …" if len(schema) > 20 else "")
        raise InputError(f"{file.url}: no column {field!r} for corpus.{name}; the file has {names}")
    if schema.names.count(field) > 1:
        raise InputError(f"{file.url}: has several columns {field!r}; corpus.{name} must name a unique one")
    kind = schema.field(field).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if name == "text_field" and not (is_string_like(kind) or pa.types.is_null(kind)):
        raise InputError(f"{file.url}: column {field!r} is {kind}, not text; choose another corpus.text_field")
    if pa.types.is_nested(kind):
        raise InputError(f"{file.url}: column {field!r} is {kind}, not a plain value; choose another corpus.{name}")
