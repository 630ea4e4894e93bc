"""Lines of text files: cut at line feeds, within a range of bytes or from a compressed stream."""

from collections.abc import Callable, Iterator
from typing import BinaryIO

from pruner.corpus.batches import DOCUMENT_BYTES_MAX
from pruner.corpus.codecs import decoded
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.names import Codec

Line = bytes | None  # without its line feed; None for one that is longer than DOCUMENT_BYTES_MAX
_READ_BYTES = 1 << 20  # read from a file at a time
_TAIL_BYTES = 1 << 16


def read_lines(
    source: BinaryIO, codec: Codec | None, start: int, stop: int | None, growth: GrowthLimit
) -> Iterator[Line]:
    """The lines that start in bytes [start, stop) of a plain file, or all lines of a compressed one.

    Blank lines at the end of a file are left out: where `stop` is given, because it comes from `content_end`.
    """
    if codec is None:
        lines = _range_lines(source, start, stop)
    else:
        read = decoded(source, codec)

        def counted(size: int) -> bytes:
            data = read(size)
            growth.add_bytes(len(data))
            return data

        lines = split_lines(counted, None)
    blank: list[Line] = []
    for line in lines:
        growth.add_rows(1)
        if (codec is not None or stop is None) and is_blank(line):
            blank.append(line)
            continue
        if blank:
            yield from blank
            blank.clear()
        yield line


def is_blank(line: Line) -> bool:
    """Whether a line is empty or white space."""
    return line is not None and (not line or line.isspace())


def content_end(source: BinaryIO, size: int) -> int:
    """The offset after the last byte of a plain text file that is not white space."""
    end = size
    while end > 0:
        start = max(0, end - _TAIL_BYTES)
        source.seek(start)
        kept = source.read(end - start).rstrip()
        if kept:
            return start + len(kept)
        end = start
    return 0


def _range_lines(source: BinaryIO, start: int, stop: int | None) -> Iterator[Line]:
    if start > 0:
        # A line starts at `start` only if the byte before is a line feed; else the first line starts after the next
        # one.
        source.seek(start - 1)
        start -= 1
        while True:
            piece = source.readline(_READ_BYTES)
            start += len(piece)
            if not piece or piece.endswith(b"\n"):
                break
            if stop is not None and start >= stop:  # a line longer than the range: no other line starts here
                return
    source.seek(start)
    if stop is None or start < stop:
        yield from split_lines(source.read, None if stop is None else stop - start)


def split_lines(read: Callable[[int], bytes], span: int | None) -> Iterator[Line]:
    """The lines of a stream that start within `span` bytes. Bytes after the last line feed are a line, if any."""
    start, size, parts = 0, 0, list[bytes]()  # of the current line
    while chunk := read(_READ_BYTES):
        *pieces, tail = chunk.split(b"\n")
        for piece in pieces:
            if span is not None and start >= span:
                return
            size += len(piece)
            yield b"".join((*parts, piece)) if size <= DOCUMENT_BYTES_MAX else None
            start, size, parts = start + size + 1, 0, []
        size += len(tail)
        parts = [*parts, tail] if size <= DOCUMENT_BYTES_MAX else []
        if span is not None and start < span <= start + size and size > DOCUMENT_BYTES_MAX:
            yield None  # no other line starts in the range
            return
    if size and (span is None or start < span):
        yield b"".join(parts) if size <= DOCUMENT_BYTES_MAX else None
