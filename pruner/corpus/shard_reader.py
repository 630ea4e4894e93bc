"""Reads the documents of a shard as record batches; a row that is no document becomes a reject with a reason."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pruner.corpus.arrow_reader import arrow_batches, arrow_schema, read_messages
from pruner.corpus.batches import cut, numbered
from pruner.corpus.codecs import DECODE_ERRORS
from pruner.corpus.column_pieces import column_pieces, named_fields
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.parquet_reader import open_parquet, parquet_batches
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import check_unchanged
from pruner.corpus.row_pieces import row_pieces
from pruner.corpus.shard import Shard
from pruner.corpus.text_rows import text_row_lists
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec

_DECODE_ROWS = 1024  # decoded at a time; not more, as some rows may be long
Columns = tuple[str, ...] | None


def read_shard(
    files: Sequence[CorpusFile],
    shard: Shard,
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    columns: Columns = (),
    first_row: int = 0,
    decode_rows: int = _DECODE_ROWS,
    on_file: Callable[[str], None] = lambda _url: None,
    on_read: Callable[[], None] = lambda: None,
) -> Iterator[pa.RecordBatch]:
    """The rows of a shard from `first_row` on, in order, in batches as `pruner.corpus.batches` describes.

    `files` are those of the shard, `Plan.files_of`. The fields `columns` are added as `source`; None adds all of them,
    or the whole JSON line. At most `decode_rows` rows of Parquet are decoded at a time. `on_file` is called before each
    file, `on_read` before each read. Raises InputError naming the file if it is damaged, or if it is not as it was
    planned, before or after reading.
    """

    def pieces() -> Iterator[pa.RecordBatch]:
        left = first_row
        start, stop = shard.start, shard.stop or None
        for number, file in enumerate(files):
            on_file(file.url)
            check_unchanged(file, roots)
            # Of several files it is not known how many rows each has, so all of their rows are read.
            skip = left if len(files) == 1 else 0
            left -= skip
            with file.open(roots) as opened:
                source = cast(BinaryIO, WatchedFile(opened, on_read))
                found = _pieces(file, source, start, stop, spec, columns, skip, decode_rows)
                for piece in numbered(found, number, skip):
                    if left < len(piece):
                        yield piece.slice(left)
                    left = max(0, left - len(piece))
            check_unchanged(file, roots)

    yield from cut(pieces())


def _pieces(
    file: CorpusFile,
    source: BinaryIO,
    start: int,
    stop: int | None,
    spec: CorpusSpec,
    columns: Columns,
    first_row: int,
    decode_rows: int,
) -> Iterator[pa.RecordBatch]:
    """The rows of units [start, stop) of a file. Raises InputError naming the file if it is damaged."""
    fields = named_fields(spec)
    wanted = None if columns is None else list(dict.fromkeys((*fields, *columns)))
    growth = GrowthLimit(file.url, file.size)
    try:
        if file.format == "parquet":
            parquet = open_parquet(source)
            groups = range(parquet.num_row_groups)[start:stop]
            batches = parquet_batches(parquet, groups, wanted, first_row, decode_rows)
            yield from column_pieces(batches, parquet.schema_arrow, file, spec, columns, growth)
        elif file.format == "arrow":
            messages = read_messages(source)
            batches = arrow_batches(source, messages, start, stop, first_row)
            yield from column_pieces(batches, arrow_schema(source, messages), file, spec, columns, growth)
        else:
            lists = text_row_lists(file, source, start, stop, wanted or fields)
            yield from row_pieces(lists, file, spec, columns, first_row)
    except MemoryError:  # Arrow's MemoryError is an ArrowException too
        raise
    except (*DECODE_ERRORS, ValueError, OverflowError) as error:
        kind = " ".join(filter(None, (file.compression, _KINDS.get(file.format, file.format.upper()))))
        raise InputError(f"{file.url}: cannot be read as {kind} ({reason(error)})") from None


_KINDS = {"parquet": "Parquet", "jsonl": "JSON lines", "arrow": "Arrow"}


class WatchedFile:
    """A file that calls `on_read` before each read."""

    def __init__(self, file: BinaryIO, on_read: Callable[[], None]) -> None:
        self._file, self._on_read = file, on_read

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        self._on_read()
        return self._file.read(size)

    def readline(self, size: int = -1) -> bytes:
        """As of a file."""
        self._on_read()
        return self._file.readline(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
