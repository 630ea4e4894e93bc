"""Arrow types with the types of their values replaced, however nested."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa


def retyped(kind: Any, leaf: Callable[[Any], Any]) -> Any:
    """The type with each type inside it that is no struct, list or map replaced by what `leaf` gives for it.

    An extension type stays if the type of its storage does, and a UUID always.
    """
    types = pa.types
    if isinstance(kind, pa.UuidType):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        storage = retyped(kind.storage_type, leaf)
        return kind if storage == kind.storage_type else storage
    if types.is_struct(kind):
        return pa.struct([_field(field, leaf) for field in kind])
    if types.is_map(kind):
        return pa.map_(_field(kind.key_field, leaf), _field(kind.item_field, leaf))
    if types.is_fixed_size_list(kind):
        return pa.list_(_field(kind.value_field, leaf), kind.list_size)
    if types.is_list(kind):
        return pa.list_(_field(kind.value_field, leaf))
    if types.is_large_list(kind):
        return pa.large_list(_field(kind.value_field, leaf))
    return leaf(kind)


def _field(field: pa.Field, leaf: Callable[[Any], Any]) -> pa.Field:
    return field.with_type(retyped(field.type, leaf))
