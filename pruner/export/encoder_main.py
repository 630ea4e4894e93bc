"""Main program of the reader process of exports: decodes corpus files, and encodes the kept rows again."""

import io
from typing import Any, BinaryIO, cast

import orjson

from pruner.corpus.paths import Roots
from pruner.corpus.plan import check_unchanged
from pruner.corpus.protocol import FILE, LENGTH
from pruner.corpus.sandbox_main import Output, receive, serve
from pruner.corpus.shard_reader import WatchedFile
from pruner.export.encode import encode
from pruner.export.kept_rows import KeptRows
from pruner.export.protocol import DATA, DATA_BYTES_MAX, KEPT, ExportRequest, decode_piece


def main() -> None:
    """Answers export requests from standard input until it ends."""
    serve(_answer)


def _answer(content: bytes, out: Output) -> None:
    request = ExportRequest.model_validate_json(content)
    file, roots = request.file, Roots(request.roots)

    def fetch(piece: int) -> Any:
        out.send(KEPT, LENGTH.pack(piece))
        if (found := receive()) is None:
            raise BrokenPipeError
        return decode_piece(found)

    out.send(FILE, orjson.dumps(file.url))
    check_unchanged(file, roots)
    with file.open(roots) as opened:
        data = _Data(out)
        source = cast(BinaryIO, WatchedFile(opened, out.alive))
        encode(request, source, lambda: KeptRows(fetch, request.rows, file.url), cast(BinaryIO, data))
        data.send()
    check_unchanged(file, roots)


class _Data(io.RawIOBase):
    """The exported file, which is sent in pieces."""

    def __init__(self, out: Output) -> None:
        self._out, self._held, self._size = out, bytearray(), 0

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """Takes all of `data`, a bytes-like object."""
        view = memoryview(data).cast("B")
        self._size += len(view)
        left = view
        while left:
            room = DATA_BYTES_MAX - len(self._held)
            self._held += left[:room]
            left = left[room:]
            if len(self._held) == DATA_BYTES_MAX:
                self.send()
        self._out.alive()
        return len(view)

    def send(self) -> None:
        """Sends what is held."""
        self._out.send(DATA, self._held)
        self._held = bytearray()

    def tell(self) -> int:
        """The number of bytes written."""
        return self._size
