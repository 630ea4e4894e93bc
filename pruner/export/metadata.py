"""Key-value metadata of tables that name their columns, with columns added and rows left out."""

from collections.abc import Callable
from typing import Any

import orjson
import pyarrow as pa

from pruner.tables.dtypes import numpy_dtype

_Edit = Callable[[Any, pa.Schema, int], None]
_SPARK_TYPES = {"float64": "double", "float32": "float", "int64": "long", "int32": "integer"}


def with_added(schema: pa.Schema, added: pa.Schema, rows: int) -> pa.Schema:
    """The schema of the `rows` kept rows of a file, with the columns `added` at its end.

    The metadata of pandas, of `datasets` and of Spark get the columns too, and the range of a pandas index its length.
    What is not as these write it stays as it is.
    """
    metadata = dict(schema.metadata or {})
    for key, edit in _EDITS.items():
        if key in metadata:
            metadata[key] = _edited(metadata[key], edit, added, rows)
    return pa.schema([*schema, *added], metadata or None)


def _edited(text: bytes, edit: _Edit, added: pa.Schema, rows: int) -> bytes:
    try:
        value = orjson.loads(text)
        edit(value, added, rows)
        return orjson.dumps(value)
    except (ValueError, LookupError, TypeError, AttributeError):
        return text


def _pandas(value: Any, added: pa.Schema, rows: int) -> None:
    for index in value["index_columns"]:
        if isinstance(index, dict) and index["kind"] == "range":
            index |= {"start": 0, "stop": rows, "step": 1}
    for field in added:
        kind = _numpy_name(field)
        about = {"name": field.name, "field_name": field.name, "pandas_type": kind, "numpy_type": kind}
        value["columns"].append(about | {"metadata": None})


def _datasets(value: Any, added: pa.Schema, _rows: int) -> None:
    features = value["info"]["features"]
    for field in added:
        features[field.name] = {"dtype": _numpy_name(field), "_type": "Value"}


def _spark(value: Any, added: pa.Schema, _rows: int) -> None:
    for field in added:
        kind = _SPARK_TYPES[_numpy_name(field)]
        value["fields"].append({"name": field.name, "type": kind, "nullable": True, "metadata": {}})


def _numpy_name(field: pa.Field) -> str:
    return numpy_dtype(field.type).name


_EDITS: dict[bytes, _Edit] = {
    b"pandas": _pandas,
    b"huggingface": _datasets,
    b"org.apache.spark.sql.parquet.row.metadata": _spark,
}
