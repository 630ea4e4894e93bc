"""Exports the kept documents of a corpus file: what other rooms call.

The file is decoded and encoded in a reader process, as pruner.corpus.sandbox describes; this process writes and hashes
the encoded bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager

import numpy as np
import pyarrow as pa

from pruner.corpus.files import CorpusFile
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.protocol import FILE, ReaderFailed, invalid
from pruner.corpus.sandbox import open_reader
from pruner.errors import InputError
from pruner.export.formats import ExportedFile, RowFormat, may_be_cut
from pruner.export.protocol import DATA, DATA_BYTES_MAX, KEPT, ROW, WHOLE, ExportRequest, LineRange, encode_piece
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.storage import Storage

_PROGRAM = "pruner.export.encoder_main"
_TICK_SECONDS = 0.5
_COPY_BYTES = 1 << 20

Waiting = Callable[[], None]


def export_file(
    file: CorpusFile,
    kept: pa.Table,
    target: RowFormat,
    storage: Storage,
    path: str,
    text_field: str,
    *,
    lines: LineRange = WHOLE,
    roots: Roots = UNRESTRICTED,
    waiting: Waiting = lambda: None,
) -> ExportedFile:
    """Writes the kept rows of a corpus file to `path` of a storage, where the file appears complete or not at all.

    The first column of `kept` is `row`, int64: the kept rows of the file, ascending, at least one. Its other columns,
    which are numbers, are added to the rows. The same input gives the same bytes. With `lines`, the range of a shard,
    the export is the part of the file that this shard has; `join_parts` joins the parts. Only files that
    `formats.may_be_cut` names have parts.

    `waiting` is called at least every 0.5 s, and may raise to end the export. Raises InputError naming the file if it
    is damaged or not as it was planned, before or after reading; if a kept row is not there or no document; if a column
    to add is there already; and if the file cannot be converted. Raises OSError as the storage and the file do.
    """
    if lines != WHOLE and not may_be_cut(file, target):
        raise ValueError(f"{file.url} has no parts that can be joined")
    _check_rows(file, kept)
    for careful in (False, True):
        request = ExportRequest(
            file=file,
            target=target,
            text_field=text_field,
            lines=lines,
            rows=len(kept),
            roots=roots.given,
            careful=careful,
        )
        try:
            with created_file(storage, path, waiting) as out:
                for data in _encoded(request, kept, waiting):
                    out.write(data)
            return exported_file(path, len(kept), out)
        except ReaderFailed as failed:
            if careful:  # rows were decoded one by one in a new process
                raise InputError(f"{file.url}: {failed}; leave the file out") from None
    raise AssertionError("unreachable: the second attempt returns or raises")


def join_parts(
    source: Storage, parts: Sequence[ExportedFile], storage: Storage, path: str, waiting: Waiting = lambda: None
) -> ExportedFile:
    """Joins the parts of a file, in the order of its shards, to one file that appears complete or not at all.

    A compressed file has one stream for each part. `waiting` as of `export_file`. Raises FileNotFoundError for a part
    that is not there, and OSError.
    """
    with created_file(storage, path, waiting) as out:
        for part in parts:
            with source.open(part.path) as copied:
                while data := copied.read(_COPY_BYTES):
                    out.write(data)
                    waiting()
    return exported_file(path, sum(part.rows for part in parts), out)


def _check_rows(file: CorpusFile, kept: pa.Table) -> None:
    if kept.schema.names[:1] != [ROW] or kept.schema.types[0] != pa.int64() or not len(kept):
        raise ValueError("the kept rows need a first column `row` of int64, and at least one row")
    rows = kept[ROW].to_numpy()
    wrong = np.flatnonzero(np.diff(rows, prepend=-1) <= 0)
    if kept[ROW].null_count or len(wrong):
        raise InputError(f"{file.url}: its kept rows are no ascending row numbers; make the selection again")


def _encoded(request: ExportRequest, kept: pa.Table, waiting: Waiting) -> Iterator[memoryview]:
    """The bytes of the exported file in pieces. Raises ReaderFailed, InputError and OSError."""
    with open_reader(_PROGRAM, fresh=request.careful) as reader:
        for kind, content in reader.messages(request, waiting, DATA_BYTES_MAX):
            if kind == KEPT:
                reader.send(encode_piece(kept, content))
            elif kind == DATA:
                yield content
            elif kind != FILE:
                raise invalid(f"a message of kind {kind!r}")


@contextmanager
def created_file(storage: Storage, path: str, waiting: Waiting) -> Iterator[HashingWriter]:
    """A writer of a file. `waiting` is called while the storage completes it, which is an upload on an object store."""
    with ExitStack() as stack:
        yield HashingWriter(stack.enter_context(storage.create(path)))
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(stack.close)
            while wait([done], _TICK_SECONDS).not_done:
                waiting()
            done.result()


def exported_file(path: str, rows: int, out: HashingWriter) -> ExportedFile:
    """The file that `out` has written to `path`."""
    written = out.written
    return ExportedFile(path=path, rows=rows, sha256=written.sha256, bytes=written.size)
