"""The raw score file of one shard: every row of it once, in order, with its score or the reason it has none.

Columns: row (int64, from the shard's start), id, domain (string), n_tokens (int64), nll (float64, nats), reject
(string). The metadata key `winnow` holds JSON: `documents`, `tokens`, `rejects`, and under `scorer` what the scorer
says of itself.
"""

import json
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.shard_reader import Block, writable
from pruner.tables.storage import Storage

NO_TOKEN = "fewer than one scored token"  # noqa: S105 (no password)
NON_FINITE = "non-finite NLL"

SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("n_tokens", pa.int64()),
        ("nll", pa.float64()),
        ("reject", pa.string()),
    ]
)


class ShardScoresWriter:
    """Writes a shard's score file, which appears when the `with` block ends without an exception."""

    def __init__(self, storage: Storage, path: str, scorer: dict[str, Any]) -> None:
        self._file = storage.create(path)
        self._scorer = scorer
        self._rows = self._tokens = self._rejects = 0

    def __enter__(self) -> "ShardScoresWriter":
        self._writer = pq.ParquetWriter(self._file.__enter__(), SCHEMA, compression="zstd")
        return self

    def append(self, block: Block, n_tokens: np.ndarray, nll: np.ndarray) -> None:
        """Adds a block's rows; n_tokens int64 [rows] and nll float64 [rows] do not count where a row has no text."""
        n_tokens, nll = np.asarray(n_tokens, dtype=np.int64), np.asarray(nll, dtype=np.float64)
        rejects = list(block.rejects)
        has_text = np.array([reject is None for reject in rejects], dtype=bool)
        for index in np.flatnonzero(has_text & ((n_tokens < 1) | ~np.isfinite(nll))):
            rejects[index] = NO_TOKEN if n_tokens[index] < 1 else NON_FINITE
        rejected = np.array([reject is not None for reject in rejects], dtype=bool)
        self._writer.write_table(
            pa.table(
                [
                    pa.array(np.arange(self._rows, self._rows + block.rows)),
                    pa.array([None if id_ is None else writable(id_) for id_ in block.ids], pa.string()),
                    pa.array([None if name is None else writable(name) for name in block.domains], pa.string()),
                    pa.array(n_tokens, mask=rejected),
                    pa.array(nll, mask=rejected),
                    pa.array(rejects, pa.string()),
                ],
                schema=SCHEMA,
            )
        )
        self._rows += block.rows
        self._tokens += int(n_tokens[~rejected].sum())
        self._rejects += int(rejected.sum())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is None:
            counts = {"documents": self._rows, "tokens": self._tokens, "rejects": self._rejects}
            self._writer.add_key_value_metadata({"winnow": json.dumps(counts | {"scorer": self._scorer})})
        try:
            self._writer.close()
        except BaseException as failed:  # a full disk, say: the file must not appear
            self._file.__exit__(type(failed), failed, failed.__traceback__)
            raise
        return self._file.__exit__(kind, error, trace)


def read_summary(storage: Storage, path: str) -> dict[str, Any]:
    """`documents`, `tokens`, `rejects` and `scorer` of a score file; reads no column."""
    with storage.open(path) as source:
        summary: dict[str, Any] = json.loads(pq.read_metadata(source).metadata[b"winnow"])
    return summary
