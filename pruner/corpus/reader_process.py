"""A reader process as its parent sees it: starts it, sends requests, and receives messages with a time limit."""

import fcntl
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import orjson
import pyarrow as pa
from pydantic import BaseModel, ValidationError

from pruner.corpus.protocol import (
    ALIVE,
    BATCH,
    CONTENT_BYTES_MAX,
    END,
    FAILURE,
    FILE,
    HEAD,
    LENGTH,
    LISTED,
    LISTING,
    SHARED,
    SHARED_BYTES,
    TAKEN,
    Failure,
    ReaderFailed,
    invalid,
)
from pruner.corpus.sandbox_main import MEMORY_BYTES
from pruner.errors import InputError

_COMMAND = "import sys; sys.path[:] = [p for p in sys.path if p]; from {} import main; main()"
# One thread, and no memory that allocators reserve in advance, as it would count as used.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "mimalloc", "ARROW_IO_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_ENVIRONMENT |= {"MALLOC_MMAP_THRESHOLD_": str(8 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
_ENVIRONMENT |= {"MIMALLOC_ARENA_RESERVE": "65536"}  # KiB
_ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TICK_SECONDS = 0.5  # between calls of `waiting`
_SILENCE_SECONDS = 120.0  # longest time without a message: the reader reports every file and every read
_START_SECONDS = 120.0  # longest time to start
_LISTING_SECONDS = 900.0  # the same while a path is listed, which some object stores do without progress
_PIPE_BYTES = 1 << 20


def environment() -> dict[str, str]:
    """The environment of readers: with the credentials of object stores, but without settings of the service."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")} | _ENVIRONMENT


class ReaderProcess:
    """A reader process. It ends when this process does, because its standard input ends."""

    def __init__(self, program: str) -> None:
        """`program` is the module of its main function, which calls `sandbox_main.serve`."""
        self.environment = environment()
        self.busy = False  # with a response that is not complete
        self._started = False
        shared = os.memfd_create("winnow-reader")
        os.ftruncate(shared, SHARED_BYTES)
        self._shared = memoryview(mmap.mmap(shared, SHARED_BYTES, prot=mmap.PROT_READ))
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, a constant and a number)
            [sys.executable, "-c", _COMMAND.format(program), str(shared)],
            pass_fds=[shared],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("WINNOW_DEBUG") else subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is handled by the parent
        )
        os.close(shared)
        self._in, self._out = self._process.stdin, self._process.stdout
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)  # type: ignore[arg-type]
        with suppress(OSError, AttributeError):  # optional: a larger pipe saves process switches
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[arg-type]

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def messages(
        self, request: BaseModel, waiting: Callable[[], None], content_max: int = CONTENT_BYTES_MAX
    ) -> Iterator[tuple[bytes, memoryview]]:
        """Sends a request and yields the messages of its response with content for the caller: kind and content.

        `waiting` is called at least every 0.5 s while the reader works, and may raise. A message has at most
        `content_max` bytes. Raises ReaderFailed, and InputError and OSError as the reader met them.
        """
        self.busy = True
        file: str | None = None
        tick = _Tick(waiting)
        limit = _SILENCE_SECONDS
        try:
            if not self._started:
                self._wait_until_ready(tick)
            self.send(request.model_dump_json().encode())
            while True:
                kind, content = self._message(tick, limit, content_max)
                limit = _LISTING_SECONDS if kind in (LISTING, LISTED) else _SILENCE_SECONDS
                if kind == END:
                    self.busy = False
                    return
                if kind == FAILURE:
                    self._raise(content)
                elif kind in (FILE, LISTING):
                    file = str(orjson.loads(content))
                    if kind == FILE:
                        yield kind, content
                elif kind != ALIVE:
                    yield kind, content
        except ReaderFailed as failed:
            raise ReaderFailed(str(failed), file) from None
        except (orjson.JSONDecodeError, ValidationError, struct.error) as error:
            raise ReaderFailed(str(invalid(error)), file) from None

    def send(self, content: bytes) -> None:
        """Sends a request, or what the reader asks for in a message. Raises ReaderFailed."""
        self._write(LENGTH.pack(len(content)) + content)

    def close(self) -> None:
        """Kills the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._in, self._out):
            if pipe is not None:
                pipe.close()

    def _raise(self, content: memoryview) -> None:
        failure = Failure.model_validate_json(bytes(content))
        if failure.kind == "memory":
            raise ReaderFailed(f"cannot be read within {MEMORY_BYTES >> 20:,} MiB of memory")
        self.busy = False
        if failure.kind == "input":
            raise InputError(failure.message)
        if failure.kind == "os":
            raise OSError(failure.errno or 0, failure.message)
        raise RuntimeError(f"the reader process failed: {failure.message}; set WINNOW_DEBUG=1 to see its output")

    def _wait_until_ready(self, tick: "_Tick") -> None:
        """Waits for the first message: a failure before it is not the fault of a file."""
        try:
            self._message(tick, _START_SECONDS, 0)
        except ReaderFailed as failed:
            raise RuntimeError(
                f"the reader process does not start: it {failed}; set WINNOW_DEBUG=1 to see its output"
            ) from None
        self._started = True

    def _message(self, tick: "_Tick", limit: float, content_max: int) -> tuple[bytes, memoryview]:
        deadline = time.monotonic() + limit
        kind, size = HEAD.unpack(self._read(HEAD.size, tick, deadline, limit))
        if kind == SHARED:
            return BATCH, self._take(size)
        if size > content_max:
            raise ReaderFailed("makes the reader send a message that is too large")
        return kind, self._read(size, tick, deadline, limit)

    def _take(self, size: int) -> memoryview:
        """A copy of the stream in the shared memory, which the reader may then use again."""
        if not 0 < size <= SHARED_BYTES:
            raise invalid(f"{size} bytes of shared memory")
        content = memoryview(pa.allocate_buffer(size)).cast("B")
        content[:] = self._shared[:size]
        self._write(TAKEN)
        return content

    def _write(self, data: bytes) -> None:
        assert self._in is not None  # noqa: S101 (a pipe)
        view = memoryview(data)
        try:
            while view:
                view = view[self._in.write(view) or 0 :]
        except BrokenPipeError:
            raise ReaderFailed(self._death()) from None

    def _read(self, size: int, tick: "_Tick", deadline: float, limit: float) -> memoryview:
        assert self._out is not None  # noqa: S101 (a pipe)
        view = memoryview(pa.allocate_buffer(size))
        got = 0
        while got < size:
            if not self._poll.poll(1000 * tick()):
                if time.monotonic() > deadline:
                    raise ReaderFailed(f"gives no progress for {limit:.0f} s")
                continue
            count = self._out.readinto(view[got:])  # type: ignore[attr-defined]
            if not count:
                raise ReaderFailed(self._death())
            got += count
        return view

    def _death(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"makes the reader die of {signal.Signals(-status).name}"
        return f"makes the reader end with status {status}"


class _Tick:
    """Calls `waiting` every 0.5 s."""

    def __init__(self, waiting: Callable[[], None]) -> None:
        self._waiting, self._last = waiting, time.monotonic()

    def __call__(self) -> float:
        """Calls `waiting` if it is due; returns the seconds until it is due again."""
        if time.monotonic() - self._last >= _TICK_SECONDS:
            self._waiting()
            self._last = time.monotonic()
        return max(0.0, self._last + _TICK_SECONDS - time.monotonic())
