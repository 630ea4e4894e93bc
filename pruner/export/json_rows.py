"""Rows of record batches as JSON lines.

Structs and maps become objects, lists arrays, and nulls null. Strings stay; bytes become the text that they are in
UTF-8, else `0x` and hex digits. Dates and times become text such as `2024-05-01 12:00:00.000000`, with a `Z` after
times with a zone, which are given in UTC; durations are integers in their unit, decimals text. NaN and infinities
become null.
"""

from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from pruner.corpus.arrow_fields import is_string_like
from pruner.corpus.labels import bytes_text
from pruner.export.retype import retyped

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


def json_lines(batch: pa.RecordBatch) -> Iterator[bytes]:
    """A line for each row. Raises ValueError for equal column names, and for equal keys of a map."""
    names = batch.schema.names
    if len(set(names)) < len(names):
        raise ValueError(f"it has several columns {next(name for name in names if names.count(name) > 1)!r}")
    for row in zip(*map(_values, batch.columns), strict=True):
        yield orjson.dumps(dict(zip(names, row, strict=True)), default=_text, option=_OPTIONS)


def _values(column: Any) -> list[Any]:
    try:
        plain = column.cast(retyped(column.type, _in_utc)).cast(retyped(column.type, _plain))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # bytes that are no UTF-8, or a type that Arrow cannot cast
        plain = column
    try:
        return plain.to_pylist(maps_as_pydicts="strict")  # type: ignore[no-any-return]
    except KeyError:
        raise ValueError("a map has a key twice") from None


def _in_utc(kind: Any) -> Any:
    if pa.types.is_dictionary(kind):
        return retyped(kind.value_type, _in_utc)
    return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz is not None else kind


def _plain(kind: Any) -> Any:
    """The type of values as JSON has them."""
    types = pa.types
    if types.is_dictionary(kind):
        return retyped(kind.value_type, _plain)
    if types.is_duration(kind):
        return pa.int64()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_temporal(kind) or types.is_decimal(kind) or types.is_fixed_size_binary(kind) or is_string_like(kind):
        return pa.large_string()
    return kind


def _text(value: Any) -> str:
    """A value that JSON does not have."""
    return bytes_text(value) if isinstance(value, bytes) else str(value)
