"""Writes kept rows as a Parquet file, laid out as the file that they come from."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.export.kept_columns import Kept
from pruner.export.row_groups import cut

_GROUP_BYTES_MAX = 256_000_000  # of the values of a row group; larger ones are split
_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 1 << 20  # of a row group where nothing gives its size
_CHUNK_BYTES, _CHUNK_ROWS = 4 << 20, 1_024  # that are written at a time; they decide where pages end
_LARGE_BYTES = 64 << 20  # of a row group for which unused memory is given back every _GROUP_BYTES


class Layout(NamedTuple):
    """How a Parquet file is written."""

    group_rows: int = _GROUP_ROWS  # at most, of a row group
    group_bytes: int = _GROUP_BYTES  # the same of its values
    large: bool = False  # whether they come near to the most memory that is usual
    codecs: tuple[str, ...] = ()  # of the leaf columns, in their order; zstd where none is given
    store_schema: bool = True  # whether the file has its Arrow schema in the metadata
    int96: bool = False  # whether it has times as INT96
    item_names: bool = False  # whether items of lists keep their names, instead of the standard's


def layout_of(parquet: pq.ParquetFile) -> Layout:
    """The layout of a file that has row groups."""
    metadata = parquet.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    leaves = range(metadata.num_columns)
    largest = max(group.total_byte_size for group in groups)
    physical = {metadata.schema.column(leaf).physical_type for leaf in leaves}
    codecs = tuple(groups[0].column(leaf).compression.replace("UNCOMPRESSED", "NONE") for leaf in leaves)
    return Layout(
        max(group.num_rows for group in groups),
        _GROUP_BYTES if largest > _GROUP_BYTES_MAX else _GROUP_BYTES_MAX,
        _LARGE_BYTES < largest <= _GROUP_BYTES_MAX,
        codecs,
        b"ARROW:schema" in (metadata.metadata or {}),
        "INT96" in physical,
        item_names=True,
    )


def write_parquet(out: BinaryIO, schema: pa.Schema, kept: Iterable[Kept], layout: Layout) -> None:
    """Writes the file. Raises ValueError for a type that Parquet does not have."""
    options: dict[str, Any] = {
        "store_schema": layout.store_schema,
        "use_deprecated_int96_timestamps": layout.int96,
        "use_compliant_nested_type": not layout.item_names,
    }
    paths = _leaf_paths(schema, options)
    codecs = [*layout.codecs, *(layout.codecs[:1] or ("ZSTD",)) * (len(paths) - len(layout.codecs))]
    with pq.ParquetWriter(out, schema, compression=dict(zip(paths, codecs, strict=True)), **options) as writer:
        chunks = _releasing(_chunks(kept)) if layout.large else _chunks(kept)
        for group in cut(chunks, layout.group_rows, layout.group_bytes):
            _write_group(writer, group, schema)
            group.clear()  # before the next one is gathered
        if not layout.store_schema:  # without it, the metadata of the schema are left out
            writer.add_key_value_metadata(schema.metadata or {})


def _leaf_paths(schema: pa.Schema, options: dict[str, Any]) -> list[str]:
    """The paths of the leaf columns as they are written."""
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(schema.empty_table(), sink, **options)
    except pa.ArrowNotImplementedError as error:
        raise ValueError(f"Parquet does not have all of its types: {error}") from None
    columns = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    return [columns.column(leaf).path for leaf in range(len(columns))]


def _chunks(kept: Iterable[Kept]) -> Iterator[pa.RecordBatch]:
    for _, block in groupby(kept, key=lambda some: some.block):
        for held in cut((some.batch for some in block), _CHUNK_ROWS, _CHUNK_BYTES):
            yield pa.concat_batches(held) if len(held) > 1 else held[0]


def _releasing(chunks: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same chunks. Gives memory without use back to the system between them, which takes its time."""
    size = 0
    for chunk in chunks:
        size += chunk.nbytes
        if size > _GROUP_BYTES:
            pa.default_memory_pool().release_unused()
            size = 0
        yield chunk


def _write_group(writer: pq.ParquetWriter, batches: list[pa.RecordBatch], schema: pa.Schema) -> None:
    table = pa.Table.from_batches(batches, schema).unify_dictionaries()
    writer.write_table(table, row_group_size=len(table))
