"""The file of one shard by a scorer that gives numbers, row-aligned with the documents file of the shard.

Its columns are float32 or float64; a value is null where a document has none.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from pruner.tables.dtypes import numpy_dtype
from pruner.tables.part_file import create_part
from pruner.tables.records import Record
from pruner.tables.storage import Storage

VALUE = "value"  # the column of a scorer with one number
FIELD = pa.schema([(VALUE, pa.float64())])
CLASSIFIER = pa.schema([(VALUE, pa.float32())])
PRIOR = pa.schema([("prior_mean", pa.float64()), ("prior_std", pa.float64())])


class ValueCounts(Record):
    """The metadata of a values file. `scorer` is what the scorer says of itself."""

    documents: int  # all rows
    missing: int  # rows without a value
    scorer: dict[str, Any]


class ValuesWriter:
    """Writes a values file, which appears when the `with` block ends without an exception."""

    def __init__(self, storage: Storage, path: str, schema: pa.Schema, scorer: dict[str, Any]) -> None:
        """`scorer` is stored as it is when the `with` block ends."""
        self._storage, self._path, self._schema, self._scorer = storage, path, schema, scorer
        self._rows = self._missing = 0

    def __enter__(self) -> "ValuesWriter":
        self._stack = ExitStack()
        self._writer = create_part(self._stack, self._storage, self._path, self._schema, self._counts)
        return self

    def append(self, *columns: Any) -> None:
        """Adds rows: Arrow arrays [rows] of the schema's types."""
        self._writer.write_batch(pa.RecordBatch.from_arrays(list(columns), schema=self._schema))
        self._rows += len(columns[0])
        self._missing += columns[0].null_count

    def _counts(self) -> ValueCounts:
        return ValueCounts(documents=self._rows, missing=self._missing, scorer=self._scorer)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


def has_text(batch: pa.RecordBatch) -> np.ndarray:
    """Whether each row of documents has text: bool [rows]. Another is a reject."""
    return np.asarray(batch["reject"].is_null().to_numpy(zero_copy_only=False))


def with_text(batch: pa.RecordBatch, values: np.ndarray, kind: Any) -> Any:
    """Values [D] of the D rows with text as an Arrow array [rows] of a type; null for other rows, and for NaN."""
    rows = np.full(len(batch), np.nan, numpy_dtype(kind))
    rows[has_text(batch)] = values
    return pa.array(rows, kind, mask=~np.isfinite(rows))
