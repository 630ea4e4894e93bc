"""Main program of the reader process: plans and reads corpora within a memory limit. See pruner.corpus.sandbox."""

import mmap
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import orjson
import pyarrow as pa

from pruner.corpus.check import check_corpus
from pruner.corpus.labels import valid_unicode
from pruner.corpus.paths import Roots
from pruner.corpus.plan import plan_corpus
from pruner.corpus.protocol import (
    ALIVE,
    BATCH,
    CHECK,
    END,
    FAILURE,
    FILE,
    HEAD,
    LENGTH,
    LISTED,
    LISTING,
    PLAN,
    READY,
    ROWS,
    SHARED,
    SHARED_BYTES,
    TAKEN,
    Failure,
    ReadRequest,
    Request,
    encode_batch,
    encode_left_out,
    encode_rows,
)
from pruner.corpus.shard_reader import read_shard
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec

MEMORY_BYTES = 1 << 30  # in addition to what the process uses when it starts
_ALIVE_SECONDS = 1.0


def main() -> None:
    """Answers requests from standard input until it ends."""
    serve(_answer)


def serve(answer: Callable[[bytes, "Output"], None]) -> None:
    """Answers what comes from standard input until it ends, within the memory limit.

    The argument of the program is the file descriptor of the memory that it shares with its parent.

    `answer` sends the messages of a response but the last one. What it raises is sent as a failure.
    """
    shared = memoryview(mmap.mmap(int(sys.argv[1]), SHARED_BYTES))
    out = Output(os.fdopen(os.dup(1), "wb", buffering=0), shared)
    os.dup2(2, 1)  # so that output of libraries does not mix with the messages
    _limit_memory()
    sys.meta_path.insert(0, _NoPandas())
    with suppress(BrokenPipeError):  # the parent has ended
        out.send(READY)
        while (content := receive()) is not None:
            _respond(partial(answer, content, out), out)
            out.wait_until_taken()


def receive() -> bytes | None:
    """What the parent sends next, or None if it has ended."""
    head = sys.stdin.buffer.read(LENGTH.size)
    return sys.stdin.buffer.read(LENGTH.unpack(head)[0]) if head else None


class _NoPandas(MetaPathFinder):
    """Hides pandas, which pyarrow loads where it is installed: the reader needs none of its 35 MiB."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


class Output:
    """Sends messages to the parent, from any thread; batches from the main thread."""

    def __init__(self, pipe: BinaryIO, shared: memoryview) -> None:
        self._pipe, self._lock, self._sent = pipe, threading.Lock(), 0.0
        self._shared, self._shared_is_free = shared, True

    def send(self, kind: bytes, content: Any = b"") -> None:
        """Sends a message. Raises BrokenPipeError if the parent has ended."""
        self._send(HEAD.pack(kind, len(content)), content)

    def _send(self, head: bytes, content: Any = b"") -> None:
        with self._lock:
            self._pipe.write(head)
            view = memoryview(content)
            while view:
                view = view[self._pipe.write(view) :]
            self._sent = time.monotonic()

    def send_batch(self, batch: pa.RecordBatch) -> None:
        """Sends a batch. Raises BrokenPipeError if the parent has ended."""
        self.wait_until_taken()
        content = encode_batch(batch, self._shared)
        if content.obj is self._shared.obj:
            self._shared_is_free = False
            self._send(HEAD.pack(SHARED, len(content)))
        else:
            self.send(BATCH, content)

    def wait_until_taken(self) -> None:
        """Waits until the parent has copied what is in the shared memory. Raises BrokenPipeError if it has ended."""
        if not self._shared_is_free and sys.stdin.buffer.read(len(TAKEN)) != TAKEN:
            raise BrokenPipeError
        self._shared_is_free = True

    def alive(self) -> None:
        """Tells the parent that reading goes on, if nothing was sent for a second."""
        if time.monotonic() - self._sent > _ALIVE_SECONDS:
            self.send(ALIVE)


def _limit_memory() -> None:
    """Limits the address space of this process, which is what every Linux counts. Elsewhere there is no such limit."""
    if not sys.platform.startswith("linux"):
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bytes_max = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bytes_max, bytes_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _respond(answer: Callable[[], None], out: Output) -> None:
    try:
        answer()
        out.send(END)
    except BrokenPipeError:
        raise
    except InputError as error:
        _fail(out, Failure(kind="input", message=str(error)))
    except MemoryError:
        _out_of_memory(out)
    except OSError as error:
        _fail(out, Failure(kind="os", message=reason(error), errno=error.errno))
    except Exception as error:
        if isinstance(error.__cause__, MemoryError):  # what orjson raises where memory ends: a SystemError
            _out_of_memory(out)
        traceback.print_exc()
        _fail(out, Failure(kind="other", message=f"{type(error).__name__}: {reason(error)}"))


def _out_of_memory(out: Output) -> NoReturn:
    _fail(out, Failure(kind="memory", message=""))
    sys.exit(1)  # the memory that is left may be fragmented


def _answer(content: bytes, out: Output) -> None:
    request = Request.model_validate_json(content)
    roots = Roots(request.roots)
    if request.read is None:
        _look(request, roots, out)
    else:
        _read(request.read, request.spec, roots, request.careful, out)


def _look(request: Request, roots: Roots, out: Output) -> None:
    """Plans a corpus, or checks it."""

    def on_path(path: str) -> None:
        out.send(LISTING, orjson.dumps(path))

    def on_file(url: str) -> None:
        out.send(FILE, orjson.dumps(url))

    at_once = {"at_once": 1} if request.careful else {}
    if request.check:
        found = check_corpus(request.spec, roots, **at_once, on_path=on_path, on_file=on_file)
        out.send(CHECK, found.model_dump_json().encode())
        return

    def on_listed(files: int) -> None:
        out.send(LISTED, orjson.dumps(files))

    def write(rows: pa.RecordBatch) -> None:
        out.send(ROWS, encode_rows(rows))

    left_out = plan_corpus(
        request.spec,
        write,
        roots,
        **at_once,
        on_path=on_path,
        on_listed=on_listed,
        on_file=on_file,
        ignored=request.ignored,
        numbers=request.numbers,
    )
    out.send(PLAN, encode_left_out(left_out))


def _read(request: ReadRequest, spec: CorpusSpec, roots: Roots, careful: bool, out: Output) -> None:
    decode_rows = {"decode_rows": 1} if careful else {}
    batches = read_shard(
        request.files,
        request.shard,
        spec,
        roots,
        request.columns,
        request.first_row,
        **decode_rows,
        on_file=lambda url: out.send(FILE, orjson.dumps(url)),
        on_read=out.alive,
    )
    for batch in batches:
        out.send_batch(batch.slice(0, 1) if request.only_one else batch)
        if request.only_one:
            break


def _fail(out: Output, failure: Failure) -> None:
    sent = failure.model_copy(update={"message": valid_unicode(failure.message)})
    out.send(FAILURE, sent.model_dump_json().encode())
