"""A schema for JSON lines: one type for each place in their objects, which holds for all kept rows of a file.

Booleans, integers (int64, else uint64), numbers (float64), strings, arrays of one type and objects (structs) keep
their types. Where values are of several types, or of one that Parquet does not have, such as an object without members,
the type is string and the values are JSON text. So are objects with more than 1,000 names, and what is nested deeper
than 20 times. What is always null is a string.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pruner.corpus.fields import EXACT
from pruner.corpus.labels import json_text

_NAMES_MAX = 1_000  # of an object inside a row: one with more is a map rather than a record
_DEPTH_MAX = 20
_INT64, _UINT64 = range(-(2**63), 2**63), range(2**64)

Convert = Callable[[Any], Any]


class Shape:
    """What was seen at one place of the objects."""

    def __init__(self, depth: int = 0) -> None:
        self.members: dict[str, Shape] = {}
        self._kinds: set[type] = set()
        self._low = self._high = 0  # of integers
        self._item: Shape | None = None
        self._depth = depth
        self._is_text = depth > _DEPTH_MAX

    def add(self, value: Any) -> None:
        """Adds a parsed JSON value."""
        if value is None or self._is_text:
            return
        kind = type(value)
        self._kinds.add(kind)
        if kind is int:
            self._low, self._high = min(self._low, value), max(self._high, value)
        elif kind is list:
            self._item = self._item or Shape(self._depth + 1)
            for item in value:
                self._item.add(item)
        elif kind is dict:
            for name, member in value.items():
                if name not in self.members:
                    self.members[name] = Shape(self._depth + 1)
                self.members[name].add(member)
        several = len(self._kinds) > 1 and self._kinds != {int, float}
        if several or (self._depth > 0 and len(self.members) > _NAMES_MAX):
            self._is_text, self._item, self.members = True, None, {}

    @property
    def type(self) -> Any:
        """The Arrow type of the values; None where they become JSON text."""
        if self._is_text:
            return None
        if not self._kinds:
            return pa.string()
        if self._kinds == {int, float}:
            return pa.float64() if -EXACT <= self._low <= self._high <= EXACT else None
        if self._kinds == {int}:
            kinds = {pa.int64(): _INT64, pa.uint64(): _UINT64}
            return next((kind for kind, held in kinds.items() if self._low in held and self._high in held), None)
        if self._item is not None:
            return pa.list_(self._item.type or pa.string())
        if self.members:
            return pa.struct(self.fields)
        return {bool: pa.bool_(), float: pa.float64(), str: pa.string()}.get(next(iter(self._kinds)))

    @property
    def fields(self) -> list[tuple[str, Any]]:
        """The names of the members and the types that hold them."""
        return [(name, shape.type or pa.string()) for name, shape in self.members.items()]

    def converter(self) -> Convert | None:
        """Makes of a parsed value one of the type; None where they are the same."""
        if self.type is None:
            return lambda value: None if value is None else json_text(value)
        if self._item is not None and (convert := self._item.converter()) is not None:
            return lambda value: None if value is None else [convert(item) for item in value]
        members = {name: made for name, shape in self.members.items() if (made := shape.converter()) is not None}
        if members:
            return lambda value: None if value is None else value | _converted(value, members)
        return None


def _converted(value: dict[str, Any], members: dict[str, Convert]) -> dict[str, Any]:
    return {name: convert(value[name]) for name, convert in members.items() if name in value}
