"""The kept rows of text files: parsed, and as their original bytes with values added to them."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator
from typing import Any, BinaryIO

import orjson

from pruner.corpus.csv_reader import CsvRows
from pruner.corpus.fields import find_value
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.jsonl_reader import json_row
from pruner.corpus.lines import read_lines
from pruner.corpus.row_pieces import Row, row_text
from pruner.corpus.text_rows import csv_rows
from pruner.export.kept_rows import KeptRows
from pruner.export.protocol import LineRange

Added = dict[str, Any]  # the values to add to a row, by name


def kept_lines(
    file: CorpusFile, source: BinaryIO, text_field: str, lines: LineRange, kept: KeptRows
) -> Iterator[bytes]:
    """The bytes of the kept rows with their own line ends; of CSV, the header is the first.

    Raises InputError for a kept row that is not there or no document, and for a name to add that is there already.
    """
    if file.format == "jsonl":
        for row, added in kept_json_rows(file, source, text_field, lines, kept):
            yield _with_members(row.line or b"", added)
        return
    rows = open_csv(file, source, kept)
    delimiter = "\t" if file.format == "tsv" else ","
    count = len(rows.header)
    yield _with_cells(rows.header_line, rows.header, count, kept.added.names, delimiter)
    for row, added in kept_csv_rows(rows, text_field, kept):
        yield _with_cells(row.line or b"", rows.cells, count, added.values(), delimiter)


def kept_json_rows(
    file: CorpusFile, source: BinaryIO, text_field: str, lines: LineRange, kept: KeptRows
) -> Iterator[tuple[Row, Added]]:
    """The kept rows of JSON lines. Raises as `kept_lines` does."""
    growth = GrowthLimit(file.url, file.size)
    found = read_lines(source, file.compression, lines.start, lines.stop or None, growth)
    for number, line, added in kept.pick(found, lines.first_row):
        row = _document(json_row(line, [text_field], first=number == 0), number, text_field, kept)
        if added:
            kept.check_names(row.values)
        yield row, added


def open_csv(file: CorpusFile, source: BinaryIO, kept: KeptRows) -> CsvRows:
    """The rows of a CSV or TSV file. Raises as `kept_lines` does."""
    rows = csv_rows(file, source, None, GrowthLimit(file.url, file.size))
    kept.check_names(rows.header)
    return rows


def kept_csv_rows(rows: CsvRows, text_field: str, kept: KeptRows) -> Iterator[tuple[Row, Added]]:
    """The kept rows of CSV. Raises as `kept_lines` does."""
    for number, row, added in kept.pick(rows, 0):
        yield _document(row, number, text_field, kept), added


def _document(row: Row, number: int, text_field: str, kept: KeptRows) -> Row:
    reject = row_text(find_value(row.values, text_field), row.line, row.error, text_field)[1]
    if reject is not None:
        raise kept.no_document(number, reject)
    return row


def _with_members(line: bytes, added: Added) -> bytes:
    """The line of a JSON object that is not empty, with more members before its last brace."""
    if not added:
        return line
    brace = line.rindex(b"}")
    members = orjson.dumps(added)[1:-1]
    return b"%b,%b%b" % (line[:brace], members, line[brace:])


def _with_cells(line: bytes, cells: list[str], columns: int, added: Collection[Any], delimiter: str) -> bytes:
    """The line of a CSV row with more values. Its first `columns` cells have a column; others, which are empty, go."""
    if not added:
        return line
    row = line.removesuffix(b"\n").removesuffix(b"\r")
    end = line[len(row) :]
    if len(cells) > columns:
        row = _csv(cells[:columns], delimiter)
    return b"%b%b%b%b" % (row, delimiter.encode(), _csv(added, delimiter), end)


def _csv(values: Iterable[Any], delimiter: str) -> bytes:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="").writerow(values)
    return out.getvalue().encode(errors="surrogateescape")
