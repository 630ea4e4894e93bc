"""Writes kept rows as an Arrow file or stream, as the one that they come from."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, BinaryIO

import pyarrow as pa

from pruner.corpus.arrow_reader import body_codec, is_arrow_file, read_messages, record_batches
from pruner.export.kept_columns import Kept
from pruner.export.row_groups import cut

_BATCH_BYTES = 64 << 20  # of a record batch; larger ones are split


def write_arrow(out: BinaryIO, schema: pa.Schema, kept: Iterable[Kept], source: BinaryIO) -> None:
    """Writes a file if `source` is one, else a stream, with the same compression and rows in a record batch.

    With dictionary-encoded columns, each record batch has the kept rows of one of the source, as these may have
    dictionaries of their own.
    """
    found = record_batches(read_messages(source))
    options = pa.ipc.IpcWriteOptions(compression=body_codec(source, found[0]), emit_dictionary_deltas=True)
    new = pa.ipc.new_file if is_arrow_file(source) else pa.ipc.new_stream
    rows_max = max(message.rows for message in found)
    with new(pa.PythonFile(out, mode="w"), schema, options=options) as writer:
        for part in _parts(schema, kept):
            for held in cut(part, rows_max, _BATCH_BYTES):
                writer.write_batch(pa.concat_batches(held))
                held.clear()


def _parts(schema: pa.Schema, kept: Iterable[Kept]) -> Iterator[Iterator[pa.RecordBatch]]:
    """The batches that may be joined."""
    if any(_has_dictionary(field.type) for field in schema):
        for _, part in groupby(kept, key=lambda some: some.block):
            yield (some.batch for some in part)
    else:
        yield (some.batch for some in kept)


def _has_dictionary(kind: Any) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return pa.types.is_dictionary(kind) or any(
        _has_dictionary(kind.field(number).type) for number in range(kind.num_fields)
    )
