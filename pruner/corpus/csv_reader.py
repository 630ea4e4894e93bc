"""Reads the rows of CSV and TSV files. The first row is the header; a quoted value may hold line feeds."""

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from pruner.corpus.batches import DOCUMENT_BYTES_MAX
from pruner.corpus.content import BYTE_ORDER_MARK
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.lines import Line, is_blank, read_lines
from pruner.corpus.names import Codec
from pruner.corpus.row_pieces import Row
from pruner.errors import InputError

_SURROGATES = range(0xDC80, 0xDD00)  # stand for bytes that are not UTF-8


class CsvRows:
    """The rows after the header: values by column name, an empty one as None.

    A value that is not UTF-8 is given as bytes. Iterating raises InputError naming the file for a value that is too
    long, as after a quote that is never closed.
    """

    def __init__(
        self, url: str, source: BinaryIO, codec: Codec | None, stop: int | None, delimiter: str, growth: GrowthLimit
    ) -> None:
        """Reads the header. Raises InputError naming the file if it cannot be read or has equal names."""
        self._url = url
        self._lines = _Lines(read_lines(source, codec, 0, stop, growth), url)
        csv.field_size_limit(DOCUMENT_BYTES_MAX)
        self._reader = csv.reader(self._lines, delimiter=delimiter)
        header, error = self._next() or ([], None)
        if error is not None:
            raise InputError(f"{url}: its header cannot be read ({error})")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise InputError(f"{url}: has several columns {twice!r}; column names must be unique")
        self.header = header
        self.header_line = b"".join(self._lines.taken)  # its bytes
        self.cells: list[str] = []  # of the row that was given last

    def __iter__(self) -> Iterator[Row]:
        while (found := self._next()) is not None:
            self.cells, error = found
            count, line = len(self.header), b"".join(self._lines.taken)
            if error is None and all(map(is_blank, self._lines.taken)):
                error = "blank line"
            elif error is None and (len(self.cells) < count or any(self.cells[count:])):
                error = f"{len(self.cells)} values where the header has {count}"
            pairs = () if error else zip(self.header, self.cells, strict=False)
            yield Row({name: _value(cell, self._lines.is_utf8) for name, cell in pairs}, line, error)

    def _next(self) -> tuple[list[str], str | None] | None:
        """The cells of the next row, or none and why; None at the end."""
        lines = self._lines
        lines.next_row()
        cells: list[str] = []
        error = None
        try:
            cells = next(self._reader)
        except StopIteration:
            return None
        except csv.Error as failed:
            error = str(failed)
            if "limit" in error:
                raise InputError(
                    f"{self._url}: row {self._reader.line_num:,} or one before it has a value over "
                    f"{DOCUMENT_BYTES_MAX >> 20} MiB; check for a quote that is not closed"
                ) from None
        if lines.ended and lines.taken:
            raise InputError(
                f"{self._url}: a quote is not closed in the row that begins at line {lines.first:,}; mend it"
            )
        return cells, error


def _value(cell: str, is_utf8: bool) -> Any:
    if not is_utf8 and any(ord(char) in _SURROGATES for char in cell):
        return cell.encode(errors="surrogateescape")
    return cell or None


class _Lines:
    """The lines of a file as text, for `csv.reader`; `taken` holds the bytes of those that it has taken."""

    def __init__(self, lines: Iterator[Line], url: str) -> None:
        self._lines, self._url = lines, url
        self.taken: list[bytes] = []
        self.is_utf8 = True
        self.ended = False  # the file has no more lines
        self.first = 1  # the number of the first line of `taken` in the file, from 1

    def next_row(self) -> None:
        """Begins another row."""
        self.first += len(self.taken)
        self.taken.clear()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            line = next(self._lines)
        except StopIteration:
            self.ended = True
            raise
        if line is None:
            raise InputError(f"{self._url}: has a line over {DOCUMENT_BYTES_MAX >> 20} MiB; leave the file out")
        self.is_utf8 = self.is_utf8 or not self.taken
        self.taken.append(line)
        if self.first == len(self.taken) == 1:
            line = line.removeprefix(BYTE_ORDER_MARK)
        line = line if line.endswith(b"\n") else line + b"\n"
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.is_utf8 = False
            return line.decode(errors="surrogateescape")
