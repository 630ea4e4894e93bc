"""Makes pieces of record batches of rows that are Python dictionaries: those of JSON lines and CSV."""

import itertools
from collections.abc import Callable, Iterable, Iterator
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
_Values = dict[str, Any]


class Row(NamedTuple):
    """A row of a text file, or why it cannot be read."""

    values: dict[str, Any]
    line: bytes | None  # its bytes, with the last line feed if it has one; None if it is too long to be held
    error: str | None = None


def row_text(row: Row, text_field: str) -> tuple[str | None, str | None]:
    """The text of a row, or None and the reason why it is no document."""
    if row.error is not None:
        return None, row.error if row.line is None else f"{UNREADABLE}: {row.error}"
    text = find_value(row.values, text_field)
    if isinstance(text, str):
        return (text, None) if text else (None, EMPTY)
    if text is ABSENT:
        return None, f"{NOT_TEXT}: no field {text_field!r}"
    if isinstance(text, bytes):
        return None, f"{UNREADABLE}: invalid UTF-8"
    return None, f"{NOT_TEXT}: {'null' if text is None else type(text).__name__}"


def row_pieces(
    rows: Iterable[Row], file: CorpusFile, spec: CorpusSpec, columns: tuple[str, ...] | None, first_row: int
) -> Iterator[pa.RecordBatch]:
    """The rows from `first_row` on.

    `source` holds the fields `columns` as JSON text, null where a row has none; with None it holds the bytes of the
    whole line before its line feed.
    """
    text_field = spec.text_field
    find_id, find_domain = (_finder(file, field) for field in (spec.id_field, spec.domain_field))
    piece = _Piece(spec, columns)
    size = text_bytes = 0
    for row in itertools.islice(rows, first_row, None):
        values, line, error = row
        text = values.get(text_field)
        reject = None
        if type(text) is not str or not text:
            text, reject = row_text(row, text_field)
        encoded = None if text is None else text.encode()  # now, as it is still in the processor's cache
        piece.texts.append(encoded)
        piece.rejects.append(reject)
        piece.ids.append(find_id(values) if error is None else None)
        piece.domains.append(find_domain(values) if error is None else None)
        if columns is None:
            piece.source.append(None if line is None else line.removesuffix(b"\n"))
        elif columns:
            piece.source.append([_json(find_value(values, name)) for name in columns])
        text_bytes += len(encoded or b"")
        size += len(line or b"")
        if len(piece.texts) == PIECE_ROWS or text_bytes >= BATCH_BYTES or size >= PIECE_BYTES:
            yield piece.batch()
            piece, size, text_bytes = _Piece(spec, columns), 0, 0
    if piece.texts:
        yield piece.batch()


def _finder(file: CorpusFile, field: str | None) -> Callable[[_Values], Any]:
    """A function that finds the id or the domain in the values of a row: None if there is none."""
    found = ABSENT if field is None else path_value(file, field)
    of_path = None if found is ABSENT else found
    if field is None or is_path_field(field):
        return lambda _row: of_path
    if "." not in field:
        return lambda row: row.get(field, of_path)

    def find(row: _Values) -> Any:
        value = find_value(row, field)
        return of_path if value is ABSENT else value

    return find


class _Piece:
    """The rows of a piece, by column. The ids and domains are values as they are in the file."""

    def __init__(self, spec: CorpusSpec, columns: tuple[str, ...] | None) -> None:
        self._spec, self._columns = spec, columns
        self.texts: list[bytes | None] = []  # in UTF-8
        self.ids: list[Any] = []
        self.domains: list[Any] = []
        self.rejects: list[str | None] = []
        self.source: list[Any] = []
        self._bad_labels: dict[int, str] = {}  # the reasons of rejects for their ids or domains, by row

    def batch(self) -> pa.RecordBatch:
        """The rows as a piece."""
        ids = self._labels("id", self.ids)
        if is_url(self._spec.domain_field or ""):
            domains = list(map(host, self.domains))
        else:
            domains = self._labels("domain", self.domains)
        for row, why in self._bad_labels.items():
            self.rejects[row] = why
            self.texts[row] = ids[row] = domains[row] = None
        labels = pa.array(ids, pa.string()), pa.array(domains, pa.string())
        return make_piece(_text_array(self.texts), *labels, pa.array(self.rejects, pa.string()), self._source_array())

    def _labels(self, about: str, values: list[Any]) -> list[str | None]:
        """The values as ids or domains. Rows where this is not possible become rejects."""
        longest = max((len(value) for value in values if type(value) is str), default=0)
        if {str, type(None)}.issuperset(map(type, values)) and longest <= LABEL_CHARACTERS_MAX:
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
        if self._columns is None:
            return pa.StructArray.from_arrays([pa.array(self.source, pa.large_binary())], [LINE])
        arrays = [pa.array(values, pa.large_string()) for values in zip(*self.source, strict=True)]
        return pa.StructArray.from_arrays(arrays, list(self._columns))


def _text_array(texts: list[bytes | None]) -> Any:
    """Texts in UTF-8 as large_string. Where all are there, faster than an array that grows with each text."""
    if None in texts:
        return pa.array(texts, pa.large_binary()).cast(pa.large_string())
    ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)  # type: ignore[arg-type]
    data = b"".join(texts)  # type: ignore[arg-type]
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(data))


def too_long() -> Row:
    """The row of a line that is too long to be held."""
    return Row({}, None, TOO_LONG)


def _json(value: Any) -> str | None:
    try:
        return None if value is None or value is ABSENT else json_text(value)
    except ValueError:  # nested too deep
        return None
