"""The documents file of one shard: every row of the shard once, in order, without its text.

Columns: file (int32, number of the file in the shard, from 0), row (int64, row of the file, counted from the shard's
first row in it), id, domain (string), n_bytes (int64, UTF-8 bytes of the text), reject (string). A row without text has
no n_bytes, but a reject: the reason.
"""

from contextlib import ExitStack
from types import TracebackType

import pyarrow as pa

from pruner.tables.part_file import create_part
from pruner.tables.records import Record
from pruner.tables.storage import Storage

SCHEMA = pa.schema(
    [
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("n_bytes", pa.int64()),
        ("reject", pa.string()),
    ]
)


class DocumentCounts(Record):
    """The metadata of a documents file."""

    documents: int = 0  # all rows
    rejects: int = 0


class DocumentsWriter:
    """Writes a documents file, which appears when the `with` block ends without an exception."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._rows = self._rejects = 0

    def __enter__(self) -> "DocumentsWriter":
        self._stack = ExitStack()
        self._writer = create_part(self._stack, self._storage, self._path, SCHEMA, self._counts)
        return self

    def append(self, batch: pa.RecordBatch) -> None:
        """Adds the rows of a batch as the sandbox gives them."""
        columns = [batch[name] for name in SCHEMA.names]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        self._rows += len(batch)
        self._rejects += len(batch) - batch["reject"].null_count

    def _counts(self) -> DocumentCounts:
        return DocumentCounts(documents=self._rows, rejects=self._rejects)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)
