"""The sandboxed reader process: plans and reads corpora within a memory limit. See pruner.corpus.sandbox."""

import os
import resource
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from pruner.corpus.files import reason
from pruner.corpus.paths import Roots
from pruner.corpus.plan import make_plan
from pruner.corpus.shard_reader import read_shard
from pruner.corpus.wire import BLOCK, END, ERROR, FILE, HEAD, PLAN, ErrorKind, decode_plan, encode_block, encode_plan
from pruner.errors import InputError
from pruner.spec import CorpusSpec

MEMORY_BYTES = 1 << 30  # besides what the process has when it starts


def main() -> None:
    """Answers requests from standard input until it ends: JSON, its length in eight bytes before it."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what some library prints must not stand between the messages
    _limit()
    with suppress(BrokenPipeError):  # nobody waits for the answer any more
        _send(out, END, b"")  # it has started
        while request := _request(sys.stdin.buffer):
            _answer(request, out)


def _limit() -> None:
    """Limits this process' memory: its address space, which is what every Linux counts. Others have no such limit."""
    if not sys.platform.startswith("linux"):
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bytes_max = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (bytes_max, bytes_max))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _request(source: BinaryIO) -> dict[str, Any] | None:
    size = int.from_bytes(source.read(8), "little")
    request: dict[str, Any] | None = orjson.loads(source.read(size)) if size else None
    return request


def _answer(request: dict[str, Any], out: BinaryIO) -> None:
    try:
        spec, roots = CorpusSpec.model_validate(request["spec"]), Roots(request["roots"])
        if request["shard"] is None:
            _plan(spec, roots, request, out)
        else:
            _read(spec, roots, request, out)
    except BrokenPipeError:
        raise
    except InputError as error:
        _fail(out, "input", str(error))
    except MemoryError:
        _fail(out, "memory", "")
        sys.exit(1)  # what is left of the memory is in pieces
    except OSError as error:
        _fail(out, "os", reason(error), error.errno)
    except Exception as error:
        traceback.print_exc()
        _fail(out, "other", f"{type(error).__name__}: {reason(error)}")


def _plan(spec: CorpusSpec, roots: Roots, request: dict[str, Any], out: BinaryIO) -> None:
    if request["careful"]:
        made = make_plan(spec, roots, 1, lambda url: _send(out, FILE, orjson.dumps(url)))
    else:
        made = make_plan(spec, roots)
    _send(out, PLAN, encode_plan(made))
    _send(out, END, b"")


def _read(spec: CorpusSpec, roots: Roots, request: dict[str, Any], out: BinaryIO) -> None:
    plan = decode_plan(memoryview(orjson.dumps(request["shard"])))
    more = {"batch_rows": 1} if request["careful"] else {}
    only, before = request["only"], 0
    for number, block in enumerate(read_shard(plan, plan.shards[0], spec, roots, **more)):
        if only is not None and only < before + block.rows:
            _send(out, BLOCK, encode_block(block.alone(only - before)))
            break
        if only is None and number >= request["skip"]:
            _send(out, BLOCK, encode_block(block))
        before += block.rows
    _send(out, END, b"")


def _fail(out: BinaryIO, kind: ErrorKind, message: str, errno: int | None = None) -> None:
    _send(out, ERROR, orjson.dumps([kind, message.encode(errors="replace").decode(), errno]))


def _send(out: BinaryIO, kind: bytes, content: bytes) -> None:
    out.write(HEAD.pack(kind, len(content)))
    view = memoryview(content)
    while view:
        view = view[out.write(view) :]
