"""Numbers in a field of the corpus, of whatever type the files store it as: the values of a field scorer."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.arrow_fields import plain_storage
from pruner.corpus.batches import SOURCE
from pruner.corpus.files import CorpusFile


def field_numbers(batch: pa.RecordBatch, field: str, files: Sequence[CorpusFile]) -> Any:
    """The numbers in a field of a batch that was read with it, float64 array [rows]; null where there is none.

    `files` are those of the shard. Booleans, texts, NaN and infinities are no numbers; a text of a CSV file is one, if
    it is the decimal form of a number.
    """
    column = plain_storage(batch[SOURCE].field(field))
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = column.cast(pa.float64(), safe=False)
    elif pa.types.is_large_string(kind):  # JSON
        texts = column.to_pylist()
        quoted = [file.format in ("csv", "tsv") for file in files]
        in_csv = [quoted[number] for number in batch["file"].to_pylist()] if any(quoted) else [False] * len(texts)
        numbers = pa.array([_number(text, csv) for text, csv in zip(texts, in_csv, strict=True)], pa.float64())
    else:
        return pa.nulls(len(batch), pa.float64())
    return pc.if_else(pc.fill_null(pc.is_finite(numbers), False), numbers, pa.scalar(None, pa.float64()))


def _number(text: str | None, in_csv: bool) -> float | None:
    """The number that a JSON text is, or that a JSON string of a CSV file has."""
    if text is None:
        return None
    try:
        value = json.loads(text)
        if in_csv and isinstance(value, str) and "_" not in value:  # Python reads 1_000 too
            value = float(value)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    except (ValueError, OverflowError, RecursionError):
        return None
