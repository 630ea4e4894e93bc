"""The rows of a text file, JSON lines or CSV."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO

from pruner.corpus.csv_reader import CsvRows
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.jsonl_reader import jsonl_row_lists, jsonl_rows
from pruner.corpus.row_pieces import Row, Rows

_LIST_BYTES = 1 << 18


def text_rows(file: CorpusFile, source: BinaryIO, start: int, stop: int | None, fields: list[str]) -> Iterable[Row]:
    """The rows of a text file that start in bytes [start, stop) of its text; of CSV, `start` is 0.

    The values of `fields` are exact. Raises InputError and one of codecs.DECODE_ERRORS.
    """
    growth = GrowthLimit(file.url, file.size)
    if file.format == "jsonl":
        return jsonl_rows(source, file.compression, start, stop, fields, growth)
    return csv_rows(file, source, stop, growth)


def text_row_lists(
    file: CorpusFile, source: BinaryIO, start: int, stop: int | None, fields: list[str]
) -> Iterator[Rows]:
    """The rows that `text_rows` gives, in lists."""
    growth = GrowthLimit(file.url, file.size)
    if file.format == "jsonl":
        return jsonl_row_lists(source, file.compression, start, stop, fields, growth)
    return _lists(csv_rows(file, source, stop, growth), fields)


def _lists(rows: Iterable[Row], fields: list[str]) -> Iterator[Rows]:
    """The rows in lists, whose lines have at least _LIST_BYTES, but for the last one."""
    held: list[Row] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row.line or b"")
        if size >= _LIST_BYTES:
            yield Rows.of(held, fields)
            held, size = [], 0
    if held:
        yield Rows.of(held, fields)


def csv_rows(file: CorpusFile, source: BinaryIO, stop: int | None, growth: GrowthLimit) -> CsvRows:
    """The rows of a CSV or TSV file. Raises InputError and one of codecs.DECODE_ERRORS."""
    delimiter = "\t" if file.format == "tsv" else ","
    return CsvRows(file.url, source, file.compression, stop, delimiter, growth)
