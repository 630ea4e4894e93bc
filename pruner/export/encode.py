"""Writes the kept rows of a corpus file, in the process that decodes it."""

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from pruner.corpus.arrow_reader import arrow_schema, read_messages
from pruner.corpus.codecs import DECODE_ERRORS
from pruner.corpus.names import Format
from pruner.corpus.parquet_reader import open_parquet
from pruner.corpus.row_pieces import Row
from pruner.errors import InputError, reason
from pruner.export.arrow_file import write_arrow
from pruner.export.compression import write_text
from pruner.export.formats import written_as
from pruner.export.json_rows import json_lines
from pruner.export.kept_columns import BLOCK_ROWS, Decoded, Kept, arrow_rows, kept_columns, parquet_rows
from pruner.export.kept_rows import KeptRows
from pruner.export.metadata import with_added
from pruner.export.parquet_file import Layout, layout_of, write_parquet
from pruner.export.protocol import ExportRequest
from pruner.export.text_columns import csv_columns, json_columns, json_shape
from pruner.export.text_rows import Added, kept_json_rows, kept_lines, open_csv


class _Table(NamedTuple):
    """The kept rows as columns, those to add included."""

    schema: pa.Schema
    kept: Iterator[Kept]
    layout: Layout = Layout()


def encode(request: ExportRequest, source: BinaryIO, kept: Callable[[], KeptRows], out: BinaryIO) -> None:
    """Writes the kept rows of the file that `source` reads to `out`. `kept` gives them from the first one on.

    Raises InputError naming the file if it is damaged, if a kept row is not there or is no document, if a column to
    add is there already, and if the file cannot be converted.
    """
    file = request.file
    try:
        form, codec = written_as(file, request.target)
        if form == file.format in ("jsonl", "csv", "tsv"):
            write_text(kept_lines(file, source, request.text_field, request.lines, kept()), codec, out)
            return
        table = _OPEN[file.format](request, source, kept)
        if form == "arrow":
            write_arrow(out, table.schema, table.kept, source)
        elif form == "parquet":
            write_parquet(out, table.schema, table.kept, table.layout)
        else:
            write_text((line for some in table.kept for line in json_lines(some.batch)), codec, out)
    except MemoryError:  # Arrow's MemoryError is an ArrowException too
        raise
    except (*DECODE_ERRORS, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{file.url}: cannot be exported ({reason(error)})") from None


def _open_parquet(request: ExportRequest, source: BinaryIO, kept: Callable[[], KeptRows]) -> _Table:
    parquet = open_parquet(source, "us")  # no time between the years 1 and 9999 overflows
    rows = kept()
    decoded = parquet_rows(parquet, rows, 1 if request.careful else BLOCK_ROWS)
    return _of_columns(request, parquet.schema_arrow, decoded, rows, layout_of(parquet))


def _open_arrow(request: ExportRequest, source: BinaryIO, kept: Callable[[], KeptRows]) -> _Table:
    messages = read_messages(source)
    return _of_columns(request, arrow_schema(source, messages), arrow_rows(source, messages), kept(), Layout())


def _of_columns(
    request: ExportRequest, schema: pa.Schema, decoded: Iterable[Decoded], kept: KeptRows, layout: Layout
) -> _Table:
    kept.check_names(schema.names)
    schema = with_added(schema, kept.added, request.rows)
    return _Table(schema, kept_columns(decoded, schema, request.file, request.text_field, kept), layout)


def _open_csv(request: ExportRequest, source: BinaryIO, kept: Callable[[], KeptRows]) -> _Table:
    rows = kept()
    found = open_csv(request.file, source, rows)
    schema = pa.schema([*((name, pa.string()) for name in found.header), *rows.added])
    return _of_text(schema, csv_columns(found, request.text_field, rows, schema))


def _open_json(request: ExportRequest, source: BinaryIO, kept: Callable[[], KeptRows]) -> _Table:
    """The rows of JSON lines, which are read once for their schema and once more."""

    def found(rows: KeptRows) -> Iterator[tuple[Row, Added]]:
        source.seek(0)
        return kept_json_rows(request.file, source, request.text_field, request.lines, rows)

    rows = kept()
    shape = json_shape(found(rows), request.file.url)
    schema = pa.schema([*shape.fields, *rows.added])
    return _of_text(schema, json_columns(found(kept()), shape, schema))


def _of_text(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> _Table:
    return _Table(schema, (Kept(0, batch) for batch in batches))


_OPEN: dict[Format, Callable[[ExportRequest, BinaryIO, Callable[[], KeptRows]], _Table]] = {
    "parquet": _open_parquet,
    "arrow": _open_arrow,
    "csv": _open_csv,
    "tsv": _open_csv,
    "jsonl": _open_json,
}
