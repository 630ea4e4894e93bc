"""Decompresses the streams of gzip, bz2, xz and zstd files, as a whole file may be made of several of them."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from pruner.corpus.names import Codec

_READ_BYTES = 1 << 20  # of compressed bytes at a time
_XZ_MEMORY_BYTES = 512 << 20
_MAGIC = {"gzip": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\x00"}
_NEW: dict[str, Callable[[], Any]] = {
    "gzip": lambda: _Gzip(),
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY_BYTES),
}

DECODE_ERRORS = (pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError)


def decoded(source: BinaryIO, codec: Codec) -> Callable[[int], bytes]:
    """A function like `read(size)`, size > 0, of the decompressed file; it returns b"" only at the end.

    It raises one of DECODE_ERRORS for damaged and truncated files, and for bytes after the last stream that are neither
    zeros nor another stream.
    """
    if codec == "zstd":
        stream = pa.CompressedInputStream(pa.PythonFile(_Shared(source), mode="r"), codec)

        def read(size: int) -> bytes:
            try:
                return bytes(stream.read(size))
            except OSError as error:
                if "too much memory" in str(error):
                    raise OSError(
                        "it was compressed with a window over 128 MiB, such as by `zstd --long=31`; compress it again"
                        " without that: zstd -dc --long=31 FILE | zstd -o NEW"
                    ) from None
                raise

        return read
    return _Streams(source, codec).read


class _Shared(io.RawIOBase):
    """A file that stays open: a stream of pyarrow closes what it reads when it is collected."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source

    def readable(self) -> bool:
        """True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        return self._source.read(size)


class _Gzip:
    """zlib's decompressor of one gzip member, with the interface of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


class _Streams:
    """The streams of a file, one after the other."""

    def __init__(self, source: BinaryIO, codec: str) -> None:
        self._source, self._codec = source, codec
        self._stream: Any = None  # the decompressor, None between two streams
        self._data = b""  # compressed bytes that were read, but not given to a decompressor

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end of the file."""
        while self._stream is not None or self._begin():
            ended = False
            if not self._data and self._stream.needs_input:
                self._data = self._source.read(_READ_BYTES)
                ended = not self._data
            data, self._data = self._data, b""
            found: bytes = self._stream.decompress(data, size)
            if self._stream.eof:
                self._data, self._stream = self._stream.unused_data, None
            elif ended and not found:
                raise EOFError("it is truncated")
            if found:
                return found
        return b""

    def _begin(self) -> bool:
        """Begins the next stream, after zero bytes, with which some writers fill blocks. False at the end."""
        magic = _MAGIC[self._codec]
        padding = b"" if self._codec == "bz2" else b"\x00"
        while len(self._data) < len(magic):
            more = self._source.read(_READ_BYTES)
            if not more:
                break
            self._data = (self._data + more).lstrip(padding)
        self._data = self._data.lstrip(padding)
        if not self._data:
            return False
        if not self._data.startswith(magic):
            raise OSError(f"after its end there are bytes that are no {self._codec} stream")
        self._stream = _NEW[self._codec]()
        return True
