"""Reads the rows of JSON lines: one line, one row, whatever it holds."""

import json
from collections.abc import Iterator
from contextlib import suppress
from operator import itemgetter
from typing import Any, BinaryIO

import orjson

from pruner.corpus.content import BYTE_ORDER_MARK
from pruner.corpus.fields import EXACT, find_value
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.labels import valid_unicode
from pruner.corpus.lines import Line, read_line_lists, read_lines
from pruner.corpus.names import Codec
from pruner.corpus.row_pieces import Row, Rows, too_long
from pruner.errors import reason


def jsonl_rows(
    source: BinaryIO, codec: Codec | None, start: int, stop: int | None, fields: list[str], growth: GrowthLimit
) -> Iterator[Row]:
    """The rows whose lines start in bytes [start, stop) of a file, or of the decoded text of a compressed one.

    The values of `fields` are exact and valid Unicode.
    """
    for number, line in enumerate(read_lines(source, codec, start, stop, growth)):
        yield json_row(line, fields, first=start == 0 and number == 0)


def jsonl_row_lists(
    source: BinaryIO, codec: Codec | None, start: int, stop: int | None, fields: list[str], growth: GrowthLimit
) -> Iterator[Rows]:
    """The rows that `jsonl_rows` gives, in lists of those whose lines were read together."""
    first = start == 0
    for lines in read_line_lists(source, codec, start, stop, growth):
        rows = _parse_plain(lines, fields)
        if rows is None:
            found = [json_row(line, fields, first=first and number == 0) for number, line in enumerate(lines)]
            rows = Rows.of(found, fields)
        yield rows
        first = False


def _parse_plain(lines: list[Line], fields: list[str]) -> Rows | None:
    """The rows of lines that need no second look, as nearly all; else None. Faster than line by line."""
    try:
        found = list(map(orjson.loads, lines))  # type: ignore[arg-type]
    except orjson.JSONDecodeError:  # also for a line that is None
        return None
    if set(map(type, found)) != {dict}:
        return None
    values = {field: _column(found, field) for field in fields}
    return None if any(map(_may_be_inexact, values.values())) else Rows(values, lines, [None] * len(lines))


def _column(rows: list[dict[str, Any]], field: str) -> list[Any]:
    """The values of a field; ABSENT where a row has none."""
    with suppress(KeyError):  # nearly always each row has it
        return list(map(itemgetter(field), rows))
    return [find_value(row, field) for row in rows]


def _may_be_inexact(values: list[Any]) -> bool:
    """Whether one may have been an integer that orjson reads as a float."""
    return float in map(type, values) and any(type(value) is float and abs(value) >= EXACT for value in values)


def json_row(line: Line, fields: list[str], *, first: bool) -> Row:
    """The row of a line; the `first` line of a file may begin with a byte order mark."""
    if line is None:
        return too_long()
    values, error = parse_line(line.removeprefix(BYTE_ORDER_MARK) if first else line, fields)
    return Row(values, line, error)


def parse_line(line: bytes, fields: list[str]) -> tuple[dict[str, Any], str | None]:
    """Parses a JSON line; returns its object, or {} and why it has none."""
    row: Any
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if not line.strip():
            return {}, "blank line"
        try:
            row = json.loads(line.decode())  # accepts what Python writes: NaN and lone surrogates
        except (ValueError, RecursionError):
            return {}, _why(line, error)
        if isinstance(row, dict):
            found = {field: find_value(row, field) for field in fields}
            row |= {field: valid_unicode(value) for field, value in found.items() if isinstance(value, str)}
    else:
        if isinstance(row, dict):
            for field in fields:
                value = row[field] if field in row else find_value(row, field)
                if isinstance(value, float) and abs(value) >= EXACT:
                    row = json.loads(line.decode())  # it may have been an integer
                    break
    return (row, None) if isinstance(row, dict) else ({}, "not a JSON object")


def _why(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    return f"invalid JSON ({reason(error)})"
