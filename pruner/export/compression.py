"""Compresses text as one stream of a codec; the same text gives the same bytes."""

import bz2
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa

from pruner.corpus.names import Codec

_WRITE_BYTES = 1 << 20  # that are compressed at a time
_AHEAD = 2  # texts of this size that wait
_GZIP_LEVEL = 6
_NEW: dict[Codec, Callable[[], Any]] = {
    "gzip": lambda: zlib.compressobj(_GZIP_LEVEL, wbits=31),  # a header without a time
    "bz2": bz2.BZ2Compressor,
    "xz": lzma.LZMACompressor,
}


def write_text(pieces: Iterable[bytes], codec: Codec | None, out: BinaryIO) -> None:
    """Writes pieces of text to `out` as one complete stream."""
    with compressing(codec, out) as write:
        for text in _ahead(_gathered(pieces)):
            write(text)


def _ahead(texts: Iterator[bytes]) -> Iterator[bytes]:
    """The same texts, which a thread makes while others are compressed."""
    with ThreadPoolExecutor(1) as thread:
        made = deque(thread.submit(next, texts, None) for _ in range(_AHEAD))
        while (text := made.popleft().result()) is not None:
            made.append(thread.submit(next, texts, None))
            yield text


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces in larger ones."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= _WRITE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


@contextmanager
def compressing(codec: Codec | None, out: BinaryIO) -> Iterator[Callable[[bytes], Any]]:
    """A function that writes text to `out` as one stream, which is complete when the `with` block ends."""
    if codec is None:
        yield out.write
    elif codec == "zstd":
        with pa.CompressedOutputStream(pa.PythonFile(out, mode="w"), codec) as stream:
            yield stream.write
    else:
        compressor = _NEW[codec]()
        yield lambda text: out.write(compressor.compress(text))
        out.write(compressor.flush())
