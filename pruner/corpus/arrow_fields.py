"""Finds fields in Arrow schemas and batches: columns, and dotted paths through structs, maps and JSON texts."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.fields import ABSENT, find_value, is_path_field, json_object


class ArrowField(NamedTuple):
    """Where a field lies: a column, then names of struct fields, then at most a key of a map or of a JSON text."""

    column: str
    names: tuple[str, ...] = ()
    key: str | None = None
    type: Any = None  # of the values, None for those of a JSON text

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
        return array

    def json_values(self, batch: pa.RecordBatch) -> list[Any]:
        """The values in JSON texts as Python objects, ABSENT where a text has none."""
        return [self._in_json(value) for value in plain_bytes(self.values(batch)).to_pylist()]

    def _in_json(self, text: bytes | None) -> Any:
        found = json_object(text) if text is not None else None
        return ABSENT if found is None else find_value(found, self.key or "")


def find_field(schema: pa.Schema, field: str) -> ArrowField | None:
    """Where a field lies in a schema, or None. Of equal column names the first is taken."""
    if is_path_field(field):
        return None
    found = _find(list(schema), field)
    return None if found is None else ArrowField(found[0][0], tuple(found[0][1:]), *found[1:])


def _find(fields: Iterable[Any], field: str) -> tuple[list[str], str | None, Any] | None:
    """Names of columns and struct fields, a key, and the type of the values."""
    types = {found.name: storage_type(found.type) for found in fields}
    if field in types:
        return [field], None, types[field]
    dot = field.find(".")
    while dot > 0:
        name, rest = field[:dot], field[dot + 1 :]
        kind = types.get(name)
        if kind is not None and pa.types.is_struct(kind):
            inner = _find([kind.field(i) for i in range(kind.num_fields)], rest)
            if inner is not None:
                return [name, *inner[0]], inner[1], inner[2]
        elif kind is not None and pa.types.is_map(kind) and is_string_like(kind.key_type):
            return [name], rest, storage_type(kind.item_type)
        elif kind is not None and is_string_like(kind):
            return [name], rest, None
        dot = field.find(".", dot + 1)
    return None


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
