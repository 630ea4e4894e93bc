"""Makes pieces of record batches of rows that are Python dictionaries: those of JSON lines and CSV."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
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
from pruner.corpus.labels import LABEL_CHARACTERS_MAX, host, json_text, label
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
    held: list[Row] = []
    texts: list[str | None] = []
    rejects: _Rejects = {}
    characters = size = 0
    for row in itertools.islice(rows, first_row, None):
        text = row.values.get(text_field)
        if type(text) is not str or not text:
            text, reject = row_text(row, text_field)
            if reject is not None:
                rejects[len(held)] = reject
        held.append(row)
        texts.append(text)
        characters += len(text or "")
        size += len(row.line or b"")
        if len(held) == PIECE_ROWS or characters >= BATCH_CHARACTERS or size >= PIECE_BYTES:
            yield _piece(held, texts, rejects, file, spec, columns)
            held, texts, rejects, characters, size = [], [], {}, 0, 0
    if held:
        yield _piece(held, texts, rejects, file, spec, columns)


_Rejects = dict[int, str]  # by row of a piece
_Labels = list[str | None]


def _piece(
    rows: list[Row],
    texts: list[str | None],
    rejects: _Rejects,
    file: CorpusFile,
    spec: CorpusSpec,
    columns: tuple[str, ...] | None,
) -> pa.RecordBatch:
    """A piece of some rows. `rejects` are those for their texts."""
    without = {at for at in rejects if rows[at].error is not None}  # rows that have no fields
    labels = []
    for about, field in (("id", spec.id_field), ("domain", spec.domain_field)):
        found, errors = _labels(rows, file, field, is_host=about == "domain" and is_url(field or ""))
        for at in errors.keys() - without:
            rejects[at] = f"{UNREADABLE}: its {about} is {errors[at]}"
            without.add(at)
        labels.append(found)
    for at in without:
        texts[at] = labels[0][at] = labels[1][at] = None
    reject = pa.array(map(rejects.get, range(len(rows))), pa.string()) if rejects else pa.nulls(len(rows), pa.string())
    ids, domains = (pa.array(values, pa.string()) for values in labels)
    characters = np.fromiter((len(text or "") for text in texts), np.int64, len(texts))
    return make_piece(_text_array(texts), ids, domains, reject, _source(rows, columns), characters=characters)


def _text_array(texts: list[str | None]) -> Any:
    """Texts as large_string. Where all are there, faster than an array that grows with each text."""
    if None in texts:
        return pa.array(texts, pa.large_string())
    encoded = [text.encode() for text in texts]  # type: ignore[union-attr]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def _labels(rows: list[Row], file: CorpusFile, field: str | None, *, is_host: bool) -> tuple[_Labels, _Rejects]:
    """The ids or domains of rows, and what is wrong with some of them."""
    found = ABSENT if field is None else path_value(file, field)
    of_path = None if found is ABSENT else found
    if field is None or is_path_field(field):
        return [of_path] * len(rows), {}
    if "." in field:
        values = [find_value(row.values, field) for row in rows]
        values = [of_path if value is ABSENT else value for value in values]
    else:
        values = [row.values.get(field, of_path) for row in rows]
    if is_host:
        return list(map(host, values)), {}
    if set(map(type, values)) <= {str, type(None)} and all(len(value or "") <= LABEL_CHARACTERS_MAX for value in values):
        return values, {}  # as nearly always
    labels: _Labels = []
    errors: _Rejects = {}
    for at, value in enumerate(values):
        try:
            labels.append(label(value))
        except ValueError as error:
            labels.append(None)
            errors[at] = str(error)
    return labels, errors


def _source(rows: list[Row], columns: tuple[str, ...] | None) -> Any:
    if columns == ():
        return None
    if columns is None:
        lines = [None if row.line is None else row.line.removesuffix(b"\n") for row in rows]
        return pa.StructArray.from_arrays([pa.array(lines, pa.large_binary())], [LINE])
    fields = [[_json(find_value(row.values, name)) for row in rows] for name in columns]
    return pa.StructArray.from_arrays([pa.array(values, pa.large_string()) for values in fields], list(columns))


def too_long() -> Row:
    """The row of a line that is too long to be held."""
    return Row({}, None, TOO_LONG)


def _json(value: Any) -> str | None:
    try:
        return None if value is None or value is ABSENT else json_text(value)
    except ValueError:  # nested too deep
        return None
