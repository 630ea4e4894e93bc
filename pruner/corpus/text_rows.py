"""The rows of a text file, JSON lines or CSV."""

from collections.abc import Iterable
from typing import BinaryIO

from pruner.corpus.csv_reader import CsvRows
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.jsonl_reader import jsonl_rows
from pruner.corpus.row_pieces import Row


def text_rows(file: CorpusFile, source: BinaryIO, start: int, stop: int | None, fields: list[str]) -> Iterable[Row]:
    """The rows of a text file that start in bytes [start, stop) of its text; of CSV, `start` is 0.

    The values of `fields` are exact. Raises InputError and one of codecs.DECODE_ERRORS.
    """
    growth = GrowthLimit(file.url, file.size)
    if file.format == "jsonl":
        return jsonl_rows(source, file.compression, start, stop, fields, growth)
    return csv_rows(file, source, stop, growth)


def csv_rows(file: CorpusFile, source: BinaryIO, stop: int | None, growth: GrowthLimit) -> CsvRows:
    """The rows of a CSV or TSV file. Raises InputError and one of codecs.DECODE_ERRORS."""
    delimiter = "\t" if file.format == "tsv" else ","
    return CsvRows(file.url, source, file.compression, stop, delimiter, growth)
