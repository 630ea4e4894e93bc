"""Makes pieces of record batches of rows that Python has parsed: those of JSON lines and CSV."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pruner.corpus.batches import (
    BATCH_BYTES,
    BATCH_ROWS,
    EMPTY,
    LINE,
    NOT_TEXT,
    TOO_LONG,
    UNREADABLE,
    make_piece,
)
from pruner.corpus.fields import ABSENT, find_value, is_path_field, is_url, path_value
from pruner.corpus.files import CorpusFile
from pruner.corpus.labels import LABEL_CHARACTERS_MAX, host, json_text, label
from pruner.spec import CorpusSpec

PIECE_ROWS = BATCH_ROWS  # a piece ends where a batch does, which then needs no copy
PIECE_BYTES = 4 << 20  # of lines, after which a piece ends too


class Row(NamedTuple):
    """A row of a text file, or why it cannot be read."""

    values: dict[str, Any]
    line: bytes | None  # its bytes, with the last line feed if it has one; None if it is too long to be held
    error: str | None = None


class Rows(NamedTuple):
    """Consecutive rows of a text file, by column: faster than row by row, where their texts stay in a cache."""

    values: dict[str, list[Any]]  # of the fields that are asked for; ABSENT where a row has none
    lines: list[bytes | None]
    errors: list[str | None]

    @staticmethod
    def of(rows: list[Row], fields: list[str]) -> "Rows":
        """The columns of rows."""
        values = {field: [find_value(row.values, field) for row in rows] for field in fields}
        return Rows(values, [row.line for row in rows], [row.error for row in rows])


def row_text(value: Any, line: bytes | None, error: str | None, text_field: str) -> tuple[str | None, str | None]:
    """The text of a row, where `value` is that of the text field; or None and the reason why it is no document."""
    if error is not None:
        return None, error if line is None else f"{UNREADABLE}: {error}"
    if isinstance(value, str):
        return (value, None) if value else (None, EMPTY)
    if value is ABSENT:
        return None, f"{NOT_TEXT}: no field {text_field!r}"
    if isinstance(value, bytes):
        return None, f"{UNREADABLE}: invalid UTF-8"
    return None, f"{NOT_TEXT}: {'null' if value is None else type(value).__name__}"


def row_pieces(
    lists: Iterable[Rows], file: CorpusFile, spec: CorpusSpec, columns: tuple[str, ...] | None, first_row: int
) -> Iterator[pa.RecordBatch]:
    """The rows from `first_row` on.

    `source` holds the fields `columns` as JSON text, null where a row has none; with None it holds the bytes of the
    whole line before its line feed.
    """
    piece = _Piece(spec, columns)
    for rows in lists:
        texts, rejects = _texts(rows, spec.text_field)
        ids, domains = (_found(rows, file, field) for field in (spec.id_field, spec.domain_field))
        added: list[list[Any]] = [texts, rejects, ids, domains, *_source(rows, columns)]
        text_ends, line_ends = _ends(texts), _ends([line or b"" for line in rows.lines])
        start, first_row = min(first_row, len(texts)), max(0, first_row - len(texts))
        while start < len(texts):
            stop = piece.end(text_ends, line_ends, start)
            bytes_added = (ends[min(stop, len(texts))] - ends[start] for ends in (text_ends, line_ends))
            piece.add([column[start:stop] for column in added], *bytes_added)
            if stop <= len(texts):
                yield piece.batch()
                piece = _Piece(spec, columns)
            start = stop
    if piece.texts:
        yield piece.batch()


def _texts(rows: Rows, field: str) -> tuple[list[bytes], list[str | None]]:
    """The texts of rows in UTF-8, and why rows are no documents; the text of these is empty."""
    values, lines, errors = rows.values[field], rows.lines, rows.errors
    with suppress(TypeError):  # not all are strings
        texts = list(map(str.encode, values))
        if all(texts):
            return texts, [None] * len(texts)
    found = [row_text(*row, field) for row in zip(values, lines, errors, strict=True)]
    return [(text or "").encode() for text, _ in found], [reject for _, reject in found]


def _found(rows: Rows, file: CorpusFile, field: str | None) -> list[Any]:
    """The ids or the domains of rows: None where there is none."""
    found = ABSENT if field is None else path_value(file, field)
    of_path = None if found is ABSENT else found
    values = rows.values[field] if field is not None and not is_path_field(field) else [ABSENT] * len(rows.lines)
    if type(ABSENT) not in set(map(type, values)) and not any(rows.errors):
        return values
    pairs = zip(values, rows.errors, strict=True)
    return [None if error is not None else of_path if value is ABSENT else value for value, error in pairs]


def _source(rows: Rows, columns: tuple[str, ...] | None) -> list[list[Any]]:
    """The columns of `source`."""
    if columns is None:
        return [[None if line is None else line.removesuffix(b"\n") for line in rows.lines]]
    return [list(map(_json, rows.values[name])) for name in columns]


class _Piece:
    """The rows of a piece, by column. The ids and domains are values as they are in the file."""

    def __init__(self, spec: CorpusSpec, columns: tuple[str, ...] | None) -> None:
        self._spec, self._columns = spec, columns
        self.texts: list[bytes] = []  # in UTF-8; empty for a reject
        self.rejects: list[str | None] = []
        self.ids: list[Any] = []
        self.domains: list[Any] = []
        self.source: list[list[Any]] = [[] for _ in self._source_names]
        self._text_bytes = self._line_bytes = 0
        self._bad_labels: dict[int, str] = {}  # the reasons of rejects for their ids or domains, by row

    @property
    def _source_names(self) -> tuple[str, ...]:
        return (LINE,) if self._columns is None else self._columns

    def end(self, text_ends: list[int], line_ends: list[int], start: int) -> int:
        """Where the rows from `start` on fill the piece, by the bytes of their texts and lines as `_ends` gives them.

        Past the last row if they do not fill it.
        """
        by_text = bisect_left(text_ends, text_ends[start] + BATCH_BYTES - self._text_bytes, start + 1)
        by_line = bisect_left(line_ends, line_ends[start] + PIECE_BYTES - self._line_bytes, start + 1)
        return min(by_text, by_line, start + PIECE_ROWS - len(self.texts))

    def add(self, added: list[list[Any]], text_bytes: int, line_bytes: int) -> None:
        """Adds rows: their texts, rejects, ids, domains and columns of `source`; the bytes of all texts and lines."""
        columns: list[list[Any]] = [self.texts, self.rejects, self.ids, self.domains, *self.source]
        for column, more in zip(columns, added, strict=True):
            column += more
        self._text_bytes += text_bytes
        self._line_bytes += line_bytes

    def batch(self) -> pa.RecordBatch:
        """The rows as a piece."""
        ids = self._labels("id", self.ids)
        if is_url(self._spec.domain_field or ""):
            domains = list(map(host, self.domains))
        else:
            domains = self._labels("domain", self.domains)
        for row, why in self._bad_labels.items():
            self.rejects[row], self.texts[row] = why, b""
            ids[row] = domains[row] = None
        labels = pa.array(ids, pa.string()), pa.array(domains, pa.string())
        return make_piece(_text_array(self.texts), *labels, pa.array(self.rejects, pa.string()), self._source_array())

    def _labels(self, about: str, values: list[Any]) -> list[str | None]:
        """The values as ids or domains. Rows where this is not possible become rejects."""
        are_texts = {str, type(None)}.issuperset(map(type, values))
        if are_texts and max(map(len, filter(None, values)), default=0) <= LABEL_CHARACTERS_MAX:
            return values  # as nearly always
        labels: list[str | None] = []
        for row, value in enumerate(values):
            try:
                labels.append(label(value))
            except ValueError as error:
                labels.append(None)
                self._bad_labels.setdefault(row, f"{UNREADABLE}: its {about} is {error}")
        return labels

    def _source_array(self) -> Any:
        if self._columns == ():
            return None
        kind = pa.large_binary() if self._columns is None else pa.large_string()
        return pa.StructArray.from_arrays([pa.array(values, kind) for values in self.source], list(self._source_names))


def _ends(values: list[bytes]) -> list[int]:
    """Where each value would end if they lay one after the other, after a 0."""
    return [0, *accumulate(map(len, values))]


def _text_array(texts: list[bytes]) -> Any:
    """Texts in UTF-8 as large_string, null where empty. Without nulls, faster than an array that grows."""
    if not all(texts):
        return pa.array([text or None for text in texts], pa.large_binary()).cast(pa.large_string())
    ends = np.array(_ends(texts), np.int64)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(texts)))


def too_long() -> Row:
    """The row of a line that is too long to be held."""
    return Row({}, None, TOO_LONG)


def _json(value: Any) -> str | None:
    try:
        return None if value is None or value is ABSENT else json_text(value)
    except ValueError:  # nested too deep
        return None
