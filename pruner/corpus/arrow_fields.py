"""Finds fields in Arrow schemas and batches: columns, and dotted paths through structs, maps and JSON texts."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.fields import ABSENT, is_path_field, value_in_json


class ArrowField(NamedTuple):
    """Where a field lies: a column, then names of struct fields, then at most a key of a map or of a JSON text.

    The values of a map may be structs, with names below the key.
    """

    column: str
    names: tuple[str, ...] = ()
    key: str | None = None
    type: Any = None  # of the values, None for those of a JSON text
    inner: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The dotted path of its columns in a Parquet file."""
        return ".".join((self.column, *self.names))

    @property
    def is_json(self) -> bool:
        """Whether the values lie in JSON texts, so that only the rows tell whether they have them."""
        return self.type is None

    def values(self, batch: pa.RecordBatch) -> Any:
        """The values as an Arrow array [rows]. Those of a JSON text are `json_values`."""
        array = plain_storage(batch[self.column])
        for name in self.names:
            array = plain_storage(pc.struct_field(array, [name]))
        if self.key is not None and not self.is_json:
            array = plain_storage(pc.map_lookup(array, pa.scalar(self.key, array.type.key_type), "first"))
            for name in self.inner:
                array = plain_storage(pc.struct_field(array, [name]))
        return array

    def is_in(self, batch: pa.RecordBatch) -> bool:
        """Whether some row has the field, where only the rows tell: below a key."""
        if self.is_json:
            return any(value is not ABSENT for value in self.json_values(batch))
        values = self.values(batch)
        return bool(values.null_count < len(values))

    def json_values(self, batch: pa.RecordBatch) -> list[Any]:
        """The values in JSON texts as Python objects, ABSENT where a text has none."""
        return [self._in_json(value) for value in plain_bytes(self.values(batch)).to_pylist()]

    def _in_json(self, text: bytes | None) -> Any:
        return ABSENT if text is None else value_in_json(text, self.key or "")


def find_field(schema: pa.Schema, field: str) -> ArrowField | None:
    """Where a field lies in a schema, or None. Of equal column names the first is taken."""
    if is_path_field(field):
        return None
    return _find(list(schema), field)


def _find(fields: Iterable[Any], field: str) -> ArrowField | None:
    types = {found.name: storage_type(found.type) for found in fields}
    if field in types:
        return ArrowField(field, type=types[field])
    dot = field.find(".")
    while dot > 0:
        name, rest = field[:dot], field[dot + 1 :]
        kind = types.get(name)
        if kind is not None and pa.types.is_struct(kind):
            inner = _find(_struct_fields(kind), rest)
            if inner is not None:
                return inner._replace(column=name, names=(inner.column, *inner.names))
        elif kind is not None and pa.types.is_map(kind) and is_string_like(kind.key_type):
            return _find_in_map(name, storage_type(kind.item_type), rest)
        elif kind is not None and is_string_like(kind):
            return ArrowField(name, key=rest)
        dot = field.find(".", dot + 1)
    return None


def _find_in_map(name: str, items: Any, rest: str) -> ArrowField:
    """A field below a map: a field of its values if they are structs that have it, else the value of a key."""
    key, dot, below = rest.partition(".")
    if dot and pa.types.is_struct(items):
        inner = _find(_struct_fields(items), below)
        if inner is not None and inner.key is None:
            return ArrowField(name, key=key, type=inner.type, inner=(inner.column, *inner.names))
    return ArrowField(name, key=rest, type=items)


def _struct_fields(kind: Any) -> list[Any]:
    return [kind.field(i) for i in range(kind.num_fields)]


def schema_fields(schema: Any, limit: int) -> dict[str, str]:
    """The names of the fields and their types, those of structs by their paths."""
    found: dict[str, str] = {}
    waiting = [("", field) for field in reversed(list(schema))]
    while waiting and len(found) < limit:
        prefix, field = waiting.pop()
        kind = storage_type(field.type)
        if pa.types.is_struct(kind):
            waiting += [(f"{prefix}{field.name}.", kind.field(i)) for i in reversed(range(kind.num_fields))]
        else:
            found[prefix + field.name] = str(kind)
    return found


def is_string_like(kind: Any) -> bool:
    """Whether the values of an Arrow type are strings, or bytes that may be UTF-8."""
    types = pa.types
    checks = (types.is_string, types.is_large_string, types.is_string_view)
    return any(check(kind) for check in (*checks, types.is_binary, types.is_large_binary, types.is_binary_view))


def storage_type(kind: Any) -> Any:
    """The type as which the values are stored: without extension types and dictionary encoding."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def plain_storage(column: Any) -> Any:
    """The column without an extension type and without dictionary encoding."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def plain_bytes(column: Any) -> Any:
    """Strings, bytes and views of them as large_binary; other columns as they are."""
    return column.cast(pa.large_binary()) if is_string_like(column.type) else column
