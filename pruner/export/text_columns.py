"""The kept rows of text files as record batches: of JSON lines with a schema found before, of CSV as strings."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import orjson
import pyarrow as pa

from pruner.corpus.csv_reader import CsvRows
from pruner.corpus.fields import EXACT
from pruner.corpus.labels import bytes_text, valid_unicode
from pruner.corpus.row_pieces import Row
from pruner.errors import InputError
from pruner.export.json_schema import Shape
from pruner.export.kept_rows import KeptRows
from pruner.export.text_rows import Added, kept_csv_rows

_BATCH_ROWS, _BATCH_BYTES = 1_024, 1 << 20
_COLUMNS_MAX = 10_000


def json_shape(rows: Iterable[tuple[Row, Added]], url: str) -> Shape:
    """What holds for all rows of a file of JSON lines. Raises InputError for a file with too many names."""
    shape = Shape()
    for row, _ in rows:
        shape.add(_exact_values(row))
        if len(shape.members) > _COLUMNS_MAX:
            raise InputError(f"{url}: its objects have more than {_COLUMNS_MAX:,} names; export it as JSON lines")
    return shape


def json_columns(rows: Iterable[tuple[Row, Added]], shape: Shape, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows as batches of a schema, which has the fields of the shape and the columns to add."""
    convert = shape.converter() or (lambda values: values)
    return _batches(((convert(_exact_values(row)) | added, row) for row, added in rows), schema)


def csv_columns(rows: CsvRows, text_field: str, kept: KeptRows, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows as batches of a schema, which has the columns of the file as strings and those to add."""

    def text(value: Any) -> Any:
        return bytes_text(value) if isinstance(value, bytes) else value

    found = kept_csv_rows(rows, text_field, kept)
    return _batches((({n: text(v) for n, v in row.values.items()} | added, row) for row, added in found), schema)


def _exact_values(row: Row) -> Any:
    """The object of a row as it stands in its line, with all digits of its integers."""
    line = row.line or b""
    with suppress(orjson.JSONDecodeError):
        found = orjson.loads(line)
        if _is_exact(found):
            return found
    return json.loads(line)


def _is_exact(value: Any) -> bool:
    """Whether orjson has not rounded an integer inside of a value: it reads those over 64 bits as floats."""
    if isinstance(value, dict):
        return all(map(_is_exact, value.values()))
    if isinstance(value, list):
        return all(map(_is_exact, value))
    return not isinstance(value, float) or abs(value) < EXACT


def _batches(rows: Iterable[tuple[dict[str, Any], Row]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    held: list[dict[str, Any]] = []
    size = 0
    for values, row in rows:
        held.append(values)
        size += len(row.line or b"")
        if len(held) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield _batch(held, schema)
            held, size = [], 0
    if held:
        yield _batch(held, schema)


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    try:
        columns = [pa.array([row.get(field.name) for row in rows], field.type) for field in schema]
    except UnicodeEncodeError:  # lone surrogates
        columns = [pa.array([_valid(row.get(field.name)) for row in rows], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _valid(value: Any) -> Any:
    """The value with `?` for what UTF-8 cannot hold."""
    if isinstance(value, str):
        return valid_unicode(value)
    if isinstance(value, list):
        return [_valid(item) for item in value]
    return {name: _valid(item) for name, item in value.items()} if isinstance(value, dict) else value
