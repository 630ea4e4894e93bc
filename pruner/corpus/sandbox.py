"""Plans and reads corpora in a process of their own, under a limit on its memory: no file can harm the one that asks.

A file may be made to do harm: pages that become gigabytes, a footer with a million columns, bytes that make a decoder
crash. What happens then happens to a reader, which is started again, and the file is named.
"""

import atexit
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import orjson

from pruner.corpus.paths import OWN, Roots
from pruner.corpus.plan import Plan, Shard
from pruner.corpus.sandbox_main import MEMORY_BYTES
from pruner.corpus.shard_reader import Block
from pruner.corpus.wire import BLOCK, BYTES_MAX, END, ERROR, FILE, HEAD, PLAN, decode_block, decode_plan, encode_plan
from pruner.errors import InputError
from pruner.spec import CorpusSpec

_COMMAND = "import sys; sys.path[:] = [p for p in sys.path if p]; from pruner.corpus.sandbox_main import main; main()"
# One thread and one plain allocator: what others reserve ahead would count as memory that is used.
_ENVIRONMENT = {"ARROW_DEFAULT_MEMORY_POOL": "system", "ARROW_IO_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_TICK_SECONDS = 0.5  # between calls of `waiting`
_SILENCE_SECONDS = 900.0  # the longest that one message may take: a page or a line is far smaller
_PIPE_BYTES = 1 << 20
_IDLE_MAX = 4  # readers that are kept for the next


class _Failed(Exception):
    """The reader ran out of memory, died or fell silent. The message says so; `file` is what it was at, if it said."""

    def __init__(self, message: str, file: str | None = None) -> None:
        super().__init__(message)
        self.file = file


class _Reader:
    """A reader process. It ends by itself when this process does, as then its input ends."""

    def __init__(self) -> None:
        self.environment = _environment()
        self.busy = False  # with an answer that is not at its end
        self._started = False
        self._process = subprocess.Popen(  # noqa: S603 (this interpreter, and a constant)
            [sys.executable, "-c", _COMMAND],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("WINNOW_DEBUG") else subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is for its parent
        )
        self._in, self._out = self._process.stdin, self._process.stdout
        with suppress(OSError, AttributeError):  # a larger pipe only saves switches between the two
            fcntl.fcntl(self._out, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[arg-type]

    def answers(self, request: dict[str, Any], waiting: Callable[[], None]) -> Iterator[tuple[bytes, memoryview]]:
        """The messages of one answer, up to its end. Raises _Failed, and what the reader says that it met."""
        self.busy = True
        file: str | None = None
        try:
            if not self._started:
                self._start(waiting)
            body = orjson.dumps(request)
            self._write(len(body).to_bytes(8, "little") + body)
            while True:
                kind, content = self._message(waiting)
                if kind == END:
                    self.busy = False
                    return
                if kind == ERROR:
                    self._raise(*orjson.loads(content))
                if kind == FILE:
                    file = orjson.loads(content)
                else:
                    yield kind, content
        except _Failed as failed:
            raise _Failed(str(failed), file) from None

    def _raise(self, kind: str, message: str, errno: int | None) -> None:
        if kind == "memory":
            raise _Failed(f"cannot be read within {MEMORY_BYTES >> 20:,} MiB of memory")
        self.busy = False
        if kind == "input":
            raise InputError(message)
        if kind == "os":
            raise OSError(errno or 0, message)
        raise RuntimeError(f"the reader failed: {message}")

    def _start(self, waiting: Callable[[], None]) -> None:
        """Waits until the process has said that it is there: what happens before is no file's fault."""
        try:
            self._message(waiting)
        except _Failed as failed:
            raise RuntimeError(
                f"the process that reads does not start: it {failed}; see why by WINNOW_DEBUG=1"
            ) from None
        self._started = True

    def _message(self, waiting: Callable[[], None]) -> tuple[bytes, memoryview]:
        kind, size = HEAD.unpack(self._read(HEAD.size, waiting))
        if size > BYTES_MAX:
            raise _Failed("makes the reader send more than a message may hold")
        return kind, self._read(size, waiting)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._in, self._out):
            if pipe is not None:
                pipe.close()

    def _write(self, data: bytes) -> None:
        assert self._in is not None  # noqa: S101 (told to Popen)
        view = memoryview(data)
        try:
            while view:
                view = view[self._in.write(view) or 0 :]
        except BrokenPipeError:
            raise _Failed(self._death()) from None

    def _read(self, size: int, waiting: Callable[[], None]) -> memoryview:
        assert self._out is not None  # noqa: S101 (told to Popen)
        view = memoryview(bytearray(size))
        got, poll = 0, select.poll()
        poll.register(self._out, select.POLLIN)
        deadline = time.monotonic() + _SILENCE_SECONDS
        while got < size:
            if not poll.poll(_TICK_SECONDS * 1000):
                waiting()
                if time.monotonic() > deadline:
                    raise _Failed(f"gives nothing for {_SILENCE_SECONDS:.0f} s")
                continue
            count = self._out.readinto(view[got:])  # type: ignore[attr-defined]
            if not count:
                raise _Failed(self._death())
            got += count
        return view

    def _death(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"makes the reader die of {signal.Signals(-status).name}"
        return f"makes the reader end with status {status}"


def make_plan(spec: CorpusSpec, roots: Roots = OWN, waiting: Callable[[], None] = lambda: None) -> Plan:
    """As `plan.make_plan`. `waiting` is called now and then, and may raise to end it. Raises InputError and OSError."""
    request = {"spec": spec.model_dump(), "roots": roots.given, "shard": None}
    for careful in (False, True):
        try:
            with _reader(fresh=careful) as reader:
                for kind, content in reader.answers(request | {"careful": careful}, waiting):
                    if kind == PLAN:
                        plan = decode_plan(content)
                return plan
        except _Failed as failed:
            if careful:  # one file at a time, so that it is this one
                raise InputError(f"{failed.file or 'the corpus'}: {failed}; leave the file out") from None
    raise AssertionError("the second try returns or raises")


def read_shard(
    plan: Plan,
    shard: Shard,
    spec: CorpusSpec,
    roots: Roots = OWN,
    waiting: Callable[[], None] = lambda: None,
    *,
    only: int | None = None,
) -> Iterator[Block]:
    """As `read.read_shard`. `waiting` is called now and then and may raise to end it. Raises InputError and OSError.

    With `only` a row of the shard, counted from 0, that one alone is given, and what comes after it is not read.
    """
    file = plan.files[shard.file]
    alone = Plan((file,), (plan.footers[shard.file],), (replace(shard, file=0),))
    request: dict[str, Any] = {"spec": spec.model_dump() | {"paths": ["-"]}, "roots": roots.given}
    request |= {"shard": orjson.loads(encode_plan(alone)), "only": only}
    done = 0
    for careful in (False, True):
        try:
            with _reader(fresh=careful) as reader:
                for kind, content in reader.answers(request | {"careful": careful, "skip": done}, waiting):
                    if kind == BLOCK:
                        yield decode_block(content)
                        done += 1
            return
        except _Failed as failed:
            if careful:  # row by row, in a process that had read nothing before
                raise InputError(f"{file.url}: {failed}; leave the file out") from None


def _environment() -> dict[str, str]:
    """What a reader is given: the settings of the stores that it reads, but not the address of a Redis."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")} | _ENVIRONMENT


_idle: list[_Reader] = []


@contextmanager
def _reader(*, fresh: bool) -> Iterator[_Reader]:
    """A reader that nobody else uses, kept for the next if its answer was whole; `fresh`: one that has read nothing."""
    reader = None
    while not fresh and reader is None:
        try:  # other threads read too
            reader = _idle.pop()
        except IndexError:
            break
        if reader.environment != _environment():  # it would read other stores than those that are meant now
            reader.close()
            reader = None
    reader = reader or _Reader()
    try:
        yield reader
    finally:
        if reader.busy or len(_idle) >= _IDLE_MAX:
            reader.close()
        else:
            _idle.append(reader)


@atexit.register
def _close() -> None:
    while _idle:
        _idle.pop().close()
