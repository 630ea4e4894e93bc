"""Makes pieces of record batches of rows that are Python dictionaries: those of JSON lines and CSV."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from pruner.corpus.batches import EMPTY, LINE, NOT_TEXT, TOO_LONG, UNREADABLE, make_piece
from pruner.corpus.fields import ABSENT, find_value, is_path_field, is_url, path_value
from pruner.corpus.files import CorpusFile
from pruner.corpus.labels import host, json_text, label
from pruner.spec import CorpusSpec

PIECE_ROWS = 512
PIECE_BYTES = 1 << 20  # of lines, after which a piece ends


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
    piece = _Piece(file, spec, columns)
    for row in itertools.islice(rows, first_row, None):
        piece.add(row)
        if len(piece.texts) == PIECE_ROWS or piece.size >= PIECE_BYTES:
            yield piece.batch()
            piece = _Piece(file, spec, columns)
    if piece.texts:
        yield piece.batch()


class _Piece:
    """Rows that are gathered until they make a piece."""

    def __init__(self, file: CorpusFile, spec: CorpusSpec, columns: tuple[str, ...] | None) -> None:
        self._text_field, self._columns = spec.text_field, columns
        self._id, self._domain = (_Label(file, field) for field in (spec.id_field, spec.domain_field))
        self._domain_label = host if is_url(spec.domain_field or "") else label
        self.size = 0
        self.texts: list[str | None] = []
        self._ids: list[str | None] = []
        self._domains: list[str | None] = []
        self._rejects: list[str | None] = []
        self._source: list[list[Any]] = [[] for _ in (LINE,) if columns is None] or [[] for _ in columns or ()]

    def add(self, row: Row) -> None:
        """Adds a row, as a document or as a reject."""
        values = row.values
        if row.error is not None:
            return self._append(None, None, None, row_text(row, self._text_field)[1], row)
        self.size += len(row.line or b"")
        id_ = domain = None
        about = "id"
        try:
            id_ = label(self._id.find(values))
            about = "domain"
            domain = self._domain_label(self._domain.find(values))
        except ValueError as failed:
            return self._append(None, None, None, f"{UNREADABLE}: its {about} is {failed}", row)
        text, reject = row_text(row, self._text_field)
        return self._append(text, id_, domain, reject, row)

    def _append(self, text: str | None, id_: str | None, domain: str | None, reject: str | None, row: Row) -> None:
        self.texts.append(text)
        self._ids.append(id_)
        self._domains.append(domain)
        self._rejects.append(reject)
        if self._columns is None:
            self._source[0].append(None if row.line is None else row.line.removesuffix(b"\n"))
        for values, name in zip(self._source, self._columns or (), strict=False):
            values.append(_json(find_value(row.values, name)))

    def batch(self) -> pa.RecordBatch:
        """The rows as a piece."""
        source = None
        if self._columns is None:
            source = pa.StructArray.from_arrays([pa.array(self._source[0], pa.large_binary())], [LINE])
        elif self._columns:
            arrays = [pa.array(values, pa.large_string()) for values in self._source]
            source = pa.StructArray.from_arrays(arrays, list(self._columns))
        return make_piece(
            pa.array(self.texts, pa.large_string()),
            pa.array(self._ids, pa.string()),
            pa.array(self._domains, pa.string()),
            pa.array(self._rejects, pa.string()),
            source,
        )


class _Label:
    """Where the id or the domain of a row comes from."""

    def __init__(self, file: CorpusFile, field: str | None) -> None:
        self._field = field
        found = ABSENT if field is None else path_value(file, field)
        self._of_path = None if found is ABSENT else found

    def find(self, row: dict[str, Any]) -> Any:
        """The value of a row, None if it has none."""
        if self._field is None or is_path_field(self._field):
            return self._of_path
        value = find_value(row, self._field)
        return self._of_path if value is ABSENT else value


def too_long() -> Row:
    """The row of a line that is too long to be held."""
    return Row({}, None, TOO_LONG)


def _json(value: Any) -> str | None:
    try:
        return None if value is None or value is ABSENT else json_text(value)
    except ValueError:  # nested too deep
        return None
