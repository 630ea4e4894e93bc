"""The scores file of one shard by one scorer, row-aligned with the documents file of the shard.

Columns: n_tokens (int32), nll (float64, nats), of its tokens the sum of the squared NLL (surprisal_sq, float64), the
largest NLL (surprisal_max, float64) and the number with an NLL over 8 nats (over_8, int32), and reject (string: why the
scorer gave no score). A row without text has nulls in all of them: its reason is in the documents file.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pruner.tables.dtypes import numpy_dtype
from pruner.tables.part_file import PartFileWriter, read_metadata
from pruner.tables.records import Record
from pruner.tables.storage import Storage
from pruner.tables.values import has_text

NO_TOKEN = "fewer than one scored token"  # noqa: S105 (no password)
NON_FINITE = "non-finite NLL"

SCHEMA = pa.schema(
    [
        ("n_tokens", pa.int32()),
        ("nll", pa.float64()),
        ("surprisal_sq", pa.float64()),
        ("surprisal_max", pa.float64()),
        ("over_8", pa.int32()),
        ("reject", pa.string()),
    ]
)


class ShardCounts(Record):
    """The metadata of a scores file. `scorer` is what the scorer says of itself: model, device, versions."""

    documents: int  # all rows
    tokens: int
    rejects: int  # rows without a score, those without text included
    scorer: dict[str, Any]


class ScoresWriter(PartFileWriter):
    """Writes a scores file."""

    def __init__(self, storage: Storage, path: str, scorer: dict[str, Any]) -> None:
        """`scorer` is stored as it is when the `with` block ends."""
        super().__init__(storage, path, SCHEMA)
        self._scorer = scorer
        self._rows = self._tokens = self._rejects = 0

    def append(
        self, batch: pa.RecordBatch, n_tokens: np.ndarray, nll: np.ndarray, surprisals: Sequence[np.ndarray]
    ) -> None:
        """Adds the rows of a batch as the sandbox gives them; only its column `reject` is used.

        n_tokens int [D], nll float64 [D] and the three `surprisals` [D], in the order of the columns, have an entry for
        each of the D rows with text. Raises ValueError for arrays of another length.
        """
        there = has_text(batch)
        row_tokens, row_nll = np.zeros(len(batch), np.int32), np.zeros(len(batch))
        if not len(n_tokens) == len(nll) == np.count_nonzero(there):
            raise ValueError(f"{len(n_tokens)} and {len(nll)} scores for {np.count_nonzero(there)} texts")
        row_tokens[there], row_nll[there] = n_tokens, nll
        no_token = there & (row_tokens < 1)
        non_finite = there & ~no_token & ~np.isfinite(row_nll)
        rejected = no_token | non_finite
        reject = pa.nulls(len(batch), pa.string())
        if rejected.any():
            reasons = np.where(no_token, NO_TOKEN, NON_FINITE)
            reject = pa.array(reasons.tolist(), pa.string(), mask=~rejected)
        missing = rejected | ~there
        rows: list[np.ndarray] = [row_tokens, row_nll]
        for field, values in zip(list(SCHEMA)[2:5], surprisals, strict=True):
            column = np.zeros(len(batch), numpy_dtype(field.type))
            column[there] = values
            rows.append(column)
        self._write([*(pa.array(values, mask=missing) for values in rows), reject])
        self._rows += len(batch)
        self._tokens += int(row_tokens[~missing].sum(dtype=np.int64))
        self._rejects += int(missing.sum())

    def _metadata(self) -> ShardCounts:
        return ShardCounts(documents=self._rows, tokens=self._tokens, rejects=self._rejects, scorer=self._scorer)


def read_counts(storage: Storage, path: str) -> ShardCounts:
    """The metadata of a scores file; reads no column.

    Raises FileNotFoundError, and InputError if the file has another format version.
    """
    return read_metadata(storage, path, ShardCounts)
