"""Reads the rows of JSON lines: one line, one row, whatever it holds."""

import json
from collections.abc import Iterator
from functools import partial
from itertools import repeat
from typing import Any, BinaryIO

import orjson

from pruner.corpus.content import BYTE_ORDER_MARK
from pruner.corpus.fields import EXACT, find_value
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.labels import valid_unicode
from pruner.corpus.lines import Line, read_line_lists
from pruner.corpus.names import Codec
from pruner.corpus.row_pieces import Row, too_long
from pruner.errors import reason


def jsonl_rows(
    source: BinaryIO, codec: Codec | None, start: int, stop: int | None, fields: list[str], growth: GrowthLimit
) -> Iterator[Row]:
    """The rows whose lines start in bytes [start, stop) of a file, or of the decoded text of a compressed one.

    The values of `fields` are exact and valid Unicode.
    """
    first = start == 0
    for lines in read_line_lists(source, codec, start, stop, growth):
        values = _parse_plain(lines, fields)
        if values is not None:
            yield from map(_ROW, zip(values, lines, repeat(None)))
        else:
            for number, line in enumerate(lines):
                yield json_row(line, fields, first=first and number == 0)
        first = False


_ROW = partial(tuple.__new__, Row)  # makes a Row of a tuple in a third of the time


def _parse_plain(lines: list[Line], fields: list[str]) -> list[dict[str, Any]] | None:
    """The objects of lines that need no second look, as nearly all; else None. Faster than line by line."""
    try:
        found = list(map(orjson.loads, lines))  # type: ignore[arg-type]
    except orjson.JSONDecodeError:  # also for a line that is None
        return None
    if set(map(type, found)) != {dict} or any(_may_be_inexact(found, field) for field in fields):
        return None
    return found


def _may_be_inexact(rows: list[dict[str, Any]], field: str) -> bool:
    """Whether a value of a field may have been an integer that orjson reads as a float."""
    values = [find_value(row, field) for row in rows] if "." in field else [row.get(field) for row in rows]
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
