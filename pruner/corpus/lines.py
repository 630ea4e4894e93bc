"""Lines of text files: cut at line feeds, within a range of bytes of the text."""

import io
from collections.abc import Callable, Iterator
from itertools import chain
from typing import BinaryIO

from pruner.corpus.batches import DOCUMENT_BYTES_MAX
from pruner.corpus.codecs import decoded
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.names import Codec

Line = bytes | None  # with its line feed, if it has one; None for one that is longer than DOCUMENT_BYTES_MAX
_READ_BYTES = 1 << 18  # read from a file at a time
_TAIL_BYTES = 1 << 16


def read_lines(
    source: BinaryIO, codec: Codec | None, start: int, stop: int | None, growth: GrowthLimit
) -> Iterator[Line]:
    """The lines that start in bytes [start, stop) of a plain file, or of the decoded text of a compressed one.

    A compressed file is decoded from its beginning. Blank lines at the end of a file are left out: of a plain file
    where `stop` is given, because it comes from `content_end`.
    """
    return chain.from_iterable(read_line_lists(source, codec, start, stop, growth))


def read_line_lists(
    source: BinaryIO, codec: Codec | None, start: int, stop: int | None, growth: GrowthLimit
) -> Iterator[list[Line]]:
    """The lines that `read_lines` gives, in lists of those that were read together."""
    text = None if codec is None else _DecodedText(source, codec, stop, growth)
    if text is None:
        source.seek(max(0, start - 1))
    else:
        text.skip(max(0, start - 1))
    goes_to_the_end = text is not None or stop is None
    blank: list[Line] = []  # at the end of what was read so far
    for lines in _range_lines(source.read if text is None else text.read, start, stop):
        growth.add_rows(len(lines))
        kept = len(lines)
        while goes_to_the_end and kept and is_blank(lines[kept - 1]):
            kept -= 1
        if kept:
            yield blank + lines[:kept] if blank or kept < len(lines) else lines
            blank = lines[kept:]
        else:
            blank += lines
    if blank and text is not None and text.goes_on():
        yield blank


class _DecodedText:
    """The text of a compressed file, decoded from its beginning. `stop` ends the range of bytes that is asked for."""

    def __init__(self, source: BinaryIO, codec: Codec, stop: int | None, growth: GrowthLimit) -> None:
        self._read, self._stop, self._growth = decoded(source, codec), stop, growth
        self._position = 0  # the offset after the bytes that were read
        self._goes_on = False  # whether something else than white space was read after the range

    def read(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end. Raises one of codecs.DECODE_ERRORS, and InputError."""
        piece = self._read(size)
        self._growth.add_bytes(len(piece))
        if self._stop is not None and not self._goes_on and self._position + len(piece) > self._stop:
            self._goes_on = bool(piece[max(0, self._stop - self._position) :].strip())
        self._position += len(piece)
        return piece

    def skip(self, offset: int) -> None:
        """Reads up to an offset, or to the end."""
        while self._position < offset and self.read(min(_READ_BYTES, offset - self._position)):
            pass

    def goes_on(self) -> bool:
        """Whether there is something else than white space after the range."""
        while self._stop is not None and not self._goes_on and self.read(_READ_BYTES):
            pass
        return self._goes_on


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


def _range_lines(read: Callable[[int], bytes], start: int, stop: int | None) -> Iterator[list[Line]]:
    """Lists of the lines that start in bytes [start, stop). `read` gives the bytes from `start` - 1 on, or from 0."""
    rest = b""
    if start > 0:
        # A line starts at `start` only if the byte before is a line feed; else the first line starts after the next
        # one.
        start -= 1
        while True:
            rest = read(_READ_BYTES)
            end = rest.find(b"\n") + 1
            start += end or len(rest)
            if end or not rest:
                break
            if stop is not None and start >= stop:  # a line longer than the range: no other line starts here
                return
        rest = rest[end:]

    def read_on(size: int) -> bytes:
        nonlocal rest
        piece, rest = rest, b""
        return piece or read(size)

    if stop is None or start < stop:
        yield from split_lines(read_on, None if stop is None else stop - start)


def split_lines(read: Callable[[int], bytes], span: int | None) -> Iterator[list[Line]]:
    """Lists of the lines of a stream that start within `span` bytes. Bytes after the last line feed are a line, if any.

    A list has the lines that end in the same piece of the stream.
    """
    start, size, parts = 0, 0, list[bytes]()  # of the current line
    while chunk := read(_READ_BYTES):
        lines: list[Line] = []
        pieces = io.BytesIO(chunk).readlines()
        whole: list[bytes] = []  # lines that need no further look, between the first piece and the last one
        if len(pieces) > 2 and (span is None or start + size + len(chunk) <= span):
            pieces, whole = [pieces[0], pieces[-1]], pieces[1:-1]
        for number, piece in enumerate(pieces):
            if number == 1:
                lines += whole
                start += sum(map(len, whole))
            if span is not None and start >= span:
                yield lines
                return
            size += len(piece)
            if piece.endswith(b"\n"):
                lines.append(b"".join((*parts, piece)) if size <= DOCUMENT_BYTES_MAX + 1 else None)
                start, size, parts = start + size, 0, []
            else:
                parts = [*parts, piece] if size <= DOCUMENT_BYTES_MAX else []
        if span is not None and start < span <= start + size and size > DOCUMENT_BYTES_MAX:
            yield [*lines, None]  # no other line starts in the range
            return
        yield lines
    if size and (span is None or start < span):
        yield [b"".join(parts) if size <= DOCUMENT_BYTES_MAX else None]
