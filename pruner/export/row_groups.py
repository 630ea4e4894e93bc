"""Cuts kept rows into groups that depend on nothing but the rows, however they were decoded."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from pruner.corpus.arrow_fields import is_string_like, plain_bytes

_VALUE_BYTES = 8  # counted for a number, an offset or an index
_LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)


def cut(batches: Iterable[pa.RecordBatch], rows_max: int, bytes_max: int) -> Iterator[list[pa.RecordBatch]]:
    """The same rows in groups of batches. A group has `rows_max` rows, or fewer with as many of `bytes_max` as fit.

    It has at least one row, however large.
    """
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        while len(batch):
            piece = batch.slice(0, rows_max - rows)
            more = batch_bytes(piece)
            fit = len(piece)
            if size + more > bytes_max:
                fit = _fit(piece, bytes_max - size) or int(not held)
            if fit:
                held.append(piece.slice(0, fit))
            batch = batch.slice(fit)
            rows, size = rows + fit, size + more
            if rows == rows_max or fit < len(piece) or size > bytes_max:
                yield held
                held, rows, size = [], 0, 0
    if held:
        yield held


def batch_bytes(batch: pa.RecordBatch) -> int:
    """The size of the values of a batch, about that in memory. The sizes of its slices add up to it."""
    return sum(map(_bytes, batch.columns))


def _fit(batch: pa.RecordBatch, bytes_max: int) -> int:
    """How many of the first rows have at most `bytes_max` bytes, where all have more."""
    return bisect_right(range(len(batch)), bytes_max, key=lambda rows: batch_bytes(batch.slice(0, rows))) - 1


def _bytes(array: Any) -> int:
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _bytes(array.storage)
    size = _VALUE_BYTES * len(array)
    if is_string_like(kind):
        return size + (pc.sum(pc.binary_length(plain_bytes(array))).as_py() or 0)
    if types.is_fixed_size_binary(kind):
        return int(kind.byte_width) * len(array)
    if types.is_struct(kind):
        return size + sum(map(_bytes, array.flatten()))
    if types.is_map(kind):
        array = array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
    if any(is_kind(array.type) for is_kind in _LISTS):
        return size + _bytes(array.flatten())
    return size
