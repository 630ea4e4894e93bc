"""The file of one shard by a scorer that gives numbers, row-aligned with the documents file of the shard.

Its columns are float32 or float64; a value is null where a document has none.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from pruner.tables.dtypes import numpy_dtype
from pruner.tables.part_file import PartFileWriter
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


class ValuesWriter(PartFileWriter):
    """Writes a values file."""

    def __init__(self, storage: Storage, path: str, schema: pa.Schema, scorer: dict[str, Any]) -> None:
        """`scorer` is stored as it is when the `with` block ends."""
        super().__init__(storage, path, schema)
        self._scorer = scorer
        self._rows = self._missing = 0

    def append(self, *columns: Any) -> None:
        """Adds rows: Arrow arrays [rows] of the schema's types."""
        self._write(list(columns))
        self._rows += len(columns[0])
        self._missing += columns[0].null_count

    def _metadata(self) -> ValueCounts:
        return ValueCounts(documents=self._rows, missing=self._missing, scorer=self._scorer)


def has_text(batch: pa.RecordBatch) -> np.ndarray:
    """Whether each row of documents has text: bool [rows]. Another is a reject."""
    return np.asarray(batch["reject"].is_null().to_numpy(zero_copy_only=False))


def with_text(batch: pa.RecordBatch, values: np.ndarray, kind: Any) -> Any:
    """Values [D] of the D rows with text as an Arrow array [rows] of a type; null for other rows, and for NaN."""
    rows = np.full(len(batch), np.nan, numpy_dtype(kind))
    rows[has_text(batch)] = values
    return pa.array(rows, kind, mask=~np.isfinite(rows))
