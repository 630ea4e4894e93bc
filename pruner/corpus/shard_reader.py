"""Reads the documents of a shard as record batches; a row that is no document becomes a reject with a reason."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pruner.corpus.batches import cut
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.jsonl_reader import jsonl_pieces
from pruner.corpus.parquet_reader import parquet_pieces
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import Shard, check_unchanged
from pruner.spec import CorpusSpec

_DECODE_ROWS = 64  # decoded at a time; few, as a row may be long


def read_shard(
    file: CorpusFile,
    shard: Shard,
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    columns: tuple[str, ...] | None = (),
    first_row: int = 0,
    decode_rows: int = _DECODE_ROWS,
    on_read: Callable[[], None] = lambda: None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a shard of `file` from `first_row` on, in order, in batches as `pruner.corpus.batches` describes.

    `columns` of the file are added as `source`; None adds all of them, or the whole JSON line. At most `decode_rows`
    rows are decoded at a time. `on_read` is called before each read of the file. Raises InputError naming the file if
    it is damaged, or if it is not as it was planned, before or after reading.
    """
    check_unchanged(file, roots)
    growth = GrowthLimit(file)
    with file.open(roots) as opened:
        source = cast(BinaryIO, _WatchedFile(opened, on_read))
        if file.format == "parquet":
            pieces = parquet_pieces(file, source, shard, spec, columns, first_row, decode_rows, growth)
        else:
            pieces = jsonl_pieces(file, source, shard, spec, columns, first_row, growth)
        yield from cut(pieces)
    check_unchanged(file, roots)


class _WatchedFile:
    """A file that calls `on_read` before each read."""

    def __init__(self, file: BinaryIO, on_read: Callable[[], None]) -> None:
        self._file, self._on_read = file, on_read

    def read(self, size: int = -1) -> bytes:
        self._on_read()
        return self._file.read(size)

    def readline(self, size: int = -1) -> bytes:
        self._on_read()
        return self._file.readline(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
