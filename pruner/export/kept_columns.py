"""The kept rows of any file as record batches of its columns, with the columns to add behind them."""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pruner.corpus.arrow_reader import Message, arrow_batches, record_batches
from pruner.corpus.column_pieces import column_pieces
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.parquet_reader import parquet_batches
from pruner.export.kept_rows import KeptRows
from pruner.export.retype import retyped
from pruner.export.row_groups import batch_bytes
from pruner.spec import CorpusSpec

BLOCK_ROWS = 1_024


class Decoded(NamedTuple):
    """Rows that were decoded together."""

    first_row: int
    block: int  # the rows that they are a part of, however these are decoded: the first of them
    batch: pa.RecordBatch


class Kept(NamedTuple):
    """Kept rows of a block, with the columns to add."""

    block: int
    batch: pa.RecordBatch


def parquet_rows(parquet: pq.ParquetFile, kept: KeptRows, decode_rows: int) -> Iterator[Decoded]:
    """The rows of the row groups that have kept rows, at most `decode_rows` decoded at a time.

    A block has the next BLOCK_ROWS rows of a row group.
    """
    stop = 0
    for number in range(parquet.num_row_groups):
        start, stop = stop, stop + parquet.metadata.row_group(number).num_rows
        if kept.next is None or kept.next >= stop:
            continue
        row = start
        for batch in parquet_batches(parquet, range(number, number + 1), None, 0, decode_rows):
            while len(batch):
                block = row - (row - start) % BLOCK_ROWS
                piece = batch.slice(0, block + BLOCK_ROWS - row)
                yield Decoded(row, block, piece)
                row, batch = row + len(piece), batch.slice(len(piece))
            if kept.next is None or kept.next >= stop:
                break


def arrow_rows(source: BinaryIO, messages: list[Message]) -> Iterator[Decoded]:
    """The rows of all record batches. A block is a record batch."""
    stops = accumulate(message.rows for message in record_batches(messages))
    row = start = stop = 0
    for batch in arrow_batches(source, messages, 0, None, 0):
        while row == stop:
            start, stop = stop, next(stops)
        yield Decoded(row, start, batch)
        row += len(batch)


def kept_columns(
    rows: Iterable[Decoded], schema: pa.Schema, file: CorpusFile, text_field: str, kept: KeptRows
) -> Iterator[Kept]:
    """The kept rows among decoded ones; `schema` has the columns of the file and those to add.

    Raises InputError for a kept row that is not there or no document.
    """
    spec = CorpusSpec(paths=["-"], text_field=text_field)
    growth = GrowthLimit(file.url, file.size)
    for first_row, block, batch in rows:
        growth.add_bytes(batch_bytes(batch))
        growth.add_rows(len(batch))
        taken = kept.take(first_row + len(batch))
        if len(taken):
            places = pc.subtract(taken["row"], first_row)
            chosen = pa.RecordBatch.from_arrays(
                [_take(column, places) for column in batch.columns], schema=batch.schema
            )
            growth.add_bytes(_text_bytes(chosen, taken["row"].to_pylist(), file, spec, kept))
            yield Kept(block, pa.RecordBatch.from_arrays([*chosen.columns, *taken.columns[1:]], schema=schema))
        if kept.next is None:
            return
    if kept.next is not None:
        raise kept.missing(kept.next)


def _take(column: Any, places: Any) -> Any:
    """Values of a column; those of string views as a copy, because Arrow takes none, and views refer to all values."""
    solid = retyped(column.type, _solid)
    return column.take(places) if solid == column.type else column.cast(solid).take(places).cast(column.type)


def _solid(kind: Any) -> Any:
    return {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}.get(kind, kind)


def _text_bytes(batch: pa.RecordBatch, rows: list[int], file: CorpusFile, spec: CorpusSpec, kept: KeptRows) -> int:
    """The bytes of the texts of a batch. Raises InputError for the first of its rows that is no document."""
    before = size = 0
    for piece in column_pieces([batch], batch.schema, file, spec, (), GrowthLimit(file.url, file.size)):
        reject = piece["reject"]
        if reject.null_count < len(piece):
            place = pc.index(reject.is_valid(), True).as_py()
            raise kept.no_document(rows[before + place], reject[place].as_py())
        before, size = before + len(piece), size + pc.sum(piece["n_bytes"]).as_py()
    return size
