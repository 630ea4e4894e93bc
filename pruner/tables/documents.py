"""The documents file of one shard: every row of the shard once, in order, without its text.

Columns: file (int32, number of the file in the shard, from 0), row (int64, row of the file, counted from the shard's
first row in it), id, domain (string), n_bytes (int64, UTF-8 bytes of the text), reject (string). A row without text has
no n_bytes, but a reject: the reason.
"""

import pyarrow as pa

from pruner.tables.part_file import PartFileWriter
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


class DocumentsWriter(PartFileWriter):
    """Writes a documents file."""

    def __init__(self, storage: Storage, path: str) -> None:
        super().__init__(storage, path, SCHEMA)
        self._rows = self._rejects = 0

    def append(self, batch: pa.RecordBatch) -> None:
        """Adds the rows of a batch as the sandbox gives them."""
        self._write([batch[name] for name in SCHEMA.names])
        self._rows += len(batch)
        self._rejects += len(batch) - batch["reject"].null_count

    def _metadata(self) -> DocumentCounts:
        return DocumentCounts(documents=self._rows, rejects=self._rejects)
