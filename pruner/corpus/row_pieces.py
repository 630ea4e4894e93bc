"""Makes pieces of record batches of rows that are Python dictionaries: those of JSON lines and CSV."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from pruner.corpus.batches import (
    BATCH_CHARACTERS,
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
from pruner.corpus.labels import host, json_text, label
from pruner.spec import CorpusSpec

PIECE_ROWS = BATCH_ROWS  # a piece ends where a batch does, which then needs no copy
PIECE_BYTES = 4 << 20  # of lines, after which a piece ends too


class Row(NamedTuple):
    """A row of a text file, or why it cannot be read."""

    values: dict[str, Any]
    line: bytes | None  # its bytes, with the last line feed if it has one; None if it is too long to be held
    error: str | None = None


def row_text(row: Row, text_field: str) -> tuple[str | None, str | None]:
    """The text of a row, or None and the reason why it is no document."""
    text = row.values.get(text_field)
    if isinstance(text, str) and text:  # as nearly always
        return text, None
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
    document = _documents(file, spec)
    documents: list[_Document] = []
    source: list[Any] = []
    characters = size = 0
    for row in itertools.islice(rows, first_row, None):
        documents.append(made := document(row))
        characters += len(made[0] or "")
        size += len(row.line or b"")
        if columns is None:
            source.append(None if row.line is None else row.line.removesuffix(b"\n"))
        elif columns:
            source.append([_json(find_value(row.values, name)) for name in columns])
        if len(documents) == PIECE_ROWS or characters >= BATCH_CHARACTERS or size >= PIECE_BYTES:
            yield _piece(documents, source, columns)
            documents, source, characters, size = [], [], 0, 0
    if documents:
        yield _piece(documents, source, columns)


_Document = tuple[str | None, str | None, str | None, str | None]  # text, id, domain, reject
_Values = dict[str, Any]


def _documents(file: CorpusFile, spec: CorpusSpec) -> Callable[[Row], _Document]:
    """A function that gives the document or the reject of a row."""
    find_id, find_domain = (_finder(file, field) for field in (spec.id_field, spec.domain_field))
    domain_label = host if is_url(spec.domain_field or "") else label
    text_field = spec.text_field

    def document(row: Row) -> _Document:
        text, reject = row_text(row, text_field)
        if row.error is not None:
            return None, None, None, reject
        about = "id"
        try:
            id_ = label(find_id(row.values))
            about = "domain"
            return text, id_, domain_label(find_domain(row.values)), reject
        except ValueError as failed:
            return None, None, None, f"{UNREADABLE}: its {about} is {failed}"

    return document


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


def _piece(documents: list[_Document], source: list[Any], columns: tuple[str, ...] | None) -> pa.RecordBatch:
    text, id_, domain, reject = zip(*documents, strict=True)
    made = None
    if columns is None:
        made = pa.StructArray.from_arrays([pa.array(source, pa.large_binary())], [LINE])
    elif columns:
        arrays = [pa.array(values, pa.large_string()) for values in zip(*source, strict=True)]
        made = pa.StructArray.from_arrays(arrays, list(columns))
    ids, domains, rejects = (pa.array(values, pa.string()) for values in (id_, domain, reject))
    return make_piece(pa.array(text, pa.large_string()), ids, domains, rejects, made)


def too_long() -> Row:
    """The row of a line that is too long to be held."""
    return Row({}, None, TOO_LONG)


def _json(value: Any) -> str | None:
    try:
        return None if value is None or value is ABSENT else json_text(value)
    except ValueError:  # nested too deep
        return None
