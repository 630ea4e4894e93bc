"""Plans and reads corpora in a reader process with a memory limit, so that no file can harm this process.

A file may be hostile: pages that decompress to gigabytes, a footer with a million columns, bytes that crash a decoder.
Then only the reader fails. The request is tried once more in a new reader, file by file or row by row; if that fails
too, the error names the file.
"""

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from pruner.corpus.check import CorpusCheck
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import Plan
from pruner.corpus.protocol import (
    BATCH,
    CHECK,
    FILE,
    LISTED,
    PLAN,
    ROWS,
    ReaderFailed,
    ReadRequest,
    Request,
    decode_batch,
    decode_check,
    decode_number,
    decode_plan,
    decode_rows,
    invalid,
)
from pruner.corpus.reader_process import ReaderProcess, environment
from pruner.corpus.shard import Shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec

Answer = TypeVar("Answer")
Messages = Iterator[tuple[bytes, memoryview]]
_PROGRAM = "pruner.corpus.sandbox_main"
_IDLE_MAX = 4  # readers of a program that are kept for later requests


@dataclass
class Planning:
    """How far planning is: files that were listed, and looked into, so far."""

    listed: int = 0
    looked: int = 0


def make_plan(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    waiting: Callable[[], None] = lambda: None,
    ignored: Sequence[str] = (),
    planning: Planning | None = None,
    numbers: Sequence[str] = (),
) -> Plan:
    """Plans a corpus as `pruner.corpus.plan.make_plan` does.

    `waiting` is called at least every 0.5 s while the reader works, and may raise to end the planning; `planning` is
    kept up to date meanwhile. Raises InputError and OSError.
    """
    told = planning or Planning()
    request = Request(spec=spec, roots=roots.given, careful=False, ignored=tuple(ignored), numbers=tuple(numbers))

    def read(messages: Messages) -> Plan:
        rows: list[pa.RecordBatch] = []
        left_out: list[memoryview] = []
        told.listed = told.looked = 0
        for kind, content in messages:
            if kind == LISTED:
                told.listed = decode_number(content)
            elif kind == FILE:
                told.looked += 1
                told.listed = max(told.listed, told.looked)
            elif kind == ROWS:
                rows.append(decode_rows(content))
            elif kind == PLAN:
                left_out.append(content)
        return decode_plan(rows, _only(left_out))

    return _look(request, read, waiting)


def check_corpus(
    spec: CorpusSpec, roots: Roots = UNRESTRICTED, waiting: Callable[[], None] = lambda: None
) -> CorpusCheck:
    """Looks at a corpus as `pruner.corpus.check.check_corpus` does. `waiting` and errors as of `make_plan`."""
    request = Request(spec=spec, roots=roots.given, careful=False, check=True)

    def read(messages: Messages) -> CorpusCheck:
        return decode_check(_only([content for kind, content in messages if kind == CHECK]))

    return _look(request, read, waiting)


def _only(answers: list[memoryview]) -> memoryview:
    if len(answers) != 1:
        raise invalid(f"{len(answers)} answers")
    return answers[0]


def _look(request: Request, read: Callable[[Messages], Answer], waiting: Callable[[], None]) -> Answer:
    """What `read` makes of the messages of a response. Raises InputError and OSError."""
    for careful in (False, True):
        try:
            with open_reader(_PROGRAM, fresh=careful) as reader:
                return read(reader.messages(request.model_copy(update={"careful": careful}), waiting))
        except ReaderFailed as failed:
            if careful:  # files are looked at one by one, so the last one failed
                raise InputError(f"{failed.file or 'the corpus'}: {failed}; leave the file out") from None
    raise AssertionError("unreachable: the second attempt returns or raises")


def read_shard(
    plan: Plan,
    shard: Shard,
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    waiting: Callable[[], None] = lambda: None,
    *,
    only: int | None = None,
    columns: Sequence[str] | None = (),
) -> Iterator[pa.RecordBatch]:
    """Reads a shard as `pruner.corpus.shard_reader.read_shard` does: batches as in `pruner.corpus.batches`.

    `waiting` is called at least every 0.5 s while the reader works, and may raise to end the reading. With `only`, a
    row of the shard counted from 0, the batch has just this row; there is no batch if the shard has fewer rows. The
    fields `columns` are added as `source`; None adds all of them, or the whole JSON line. Raises InputError and
    OSError.
    """
    files = plan.files_of(shard)
    done = 0
    for careful in (False, True):
        read = ReadRequest(
            files=files,
            shard=shard,
            columns=None if columns is None else tuple(columns),
            first_row=done if only is None else only,
            only_one=only is not None,
        )
        request = Request(spec=spec.model_copy(update={"paths": ["-"]}), roots=roots.given, careful=careful, read=read)
        try:
            with open_reader(_PROGRAM, fresh=careful) as reader:
                for kind, content in reader.messages(request, waiting):
                    if kind == BATCH:
                        batch = decode_batch(content, len(files))
                        done += len(batch)
                        yield batch
            return
        except ReaderFailed as failed:
            if only is not None and done:
                return
            if careful:  # rows were read one by one in a new process
                raise InputError(f"{failed.file or files[0].url}: {failed}; leave the file out") from None


_idle: dict[str, list[ReaderProcess]] = {}  # by program


@contextmanager
def open_reader(program: str, *, fresh: bool) -> Iterator[ReaderProcess]:
    """A reader of a program that no other thread uses. It is kept for later requests if its response was complete.

    A `fresh` one has read nothing before.
    """
    idle = _idle.setdefault(program, [])
    reader = None
    while not fresh and reader is None:
        try:  # other threads take readers too
            reader = idle.pop()
        except IndexError:
            break
        if reader.environment != environment():  # credentials or endpoints have changed
            reader.close()
            reader = None
    reader = reader or ReaderProcess(program)
    try:
        yield reader
    finally:
        if reader.busy or len(idle) >= _IDLE_MAX:
            reader.close()
        else:
            idle.append(reader)


@atexit.register
def close_idle() -> None:
    """Ends the readers that are kept for later requests."""
    for idle in list(_idle.values()):
        while idle:
            idle.pop().close()
