"""Reads the rows of a JSON lines shard as record batches: one line, one row, whatever it holds."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from pruner.corpus.batches import DOCUMENT_BYTES_MAX, EMPTY, LINE, NOT_TEXT, TOO_LONG, UNREADABLE, make_batch
from pruner.corpus.files import CorpusFile
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.labels import host, json_text, label, valid_unicode
from pruner.corpus.plan import Shard
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec

_READ_BYTES = 1 << 20  # read from a file at a time
_PIECE_ROWS = 512
_PIECE_BYTES = 1 << 20  # of lines, after which a piece ends
_EXACT = 2.0**53  # orjson reads integers over 64 bits as floats; no integer below this is changed by it
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def jsonl_pieces(
    file: CorpusFile,
    source: BinaryIO,
    shard: Shard,
    spec: CorpusSpec,
    columns: tuple[str, ...] | None,
    first_row: int,
    growth: GrowthLimit,
) -> Iterator[pa.RecordBatch]:
    """The shard's rows from `first_row` on.

    `source` holds the values of `columns` as JSON text, null where a row has none; with None it holds the bytes of the
    whole line before its line feed. Raises InputError naming the file if it is damaged.
    """
    try:
        if file.compression is not None:
            stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), file.compression)

            def read(size: int) -> bytes:
                data: bytes = stream.read(size)
                growth.add_bytes(len(data))
                return data

            lines = split_lines(read, None)
        else:
            lines = _range_lines(source, shard)
        piece = _Piece(spec, columns)
        for number, line in enumerate(itertools.islice(lines, first_row, None), first_row):
            piece.add(line, first=number == 0)
            if len(piece.texts) == _PIECE_ROWS or piece.size >= _PIECE_BYTES:
                growth.add_rows(len(piece.texts))
                yield piece.batch()
                piece = _Piece(spec, columns)
        growth.add_rows(len(piece.texts))
        if piece.texts:
            yield piece.batch()
    except MemoryError:  # Arrow's MemoryError is an ArrowException too
        raise
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.url}: cannot be read as {file.compression or 'JSON'} lines ({reason(error)})"
        ) from None


def _range_lines(source: BinaryIO, shard: Shard) -> Iterator[bytes | None]:
    """The lines that start in the shard's byte range."""
    start = shard.start
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
            if start >= shard.stop:  # a line longer than the range: no other line starts here
                return
    source.seek(start)
    if start < shard.stop:
        yield from split_lines(source.read, shard.stop - start)


def split_lines(read: Callable[[int], bytes], span: int | None) -> Iterator[bytes | None]:
    """The lines of a stream that start within `span` bytes, without their line feeds; None for one that is too long.

    Bytes after the last line feed are a line, if there are any.
    """
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


class _Piece:
    """Rows that are gathered until they make a batch."""

    def __init__(self, spec: CorpusSpec, columns: tuple[str, ...] | None) -> None:
        self._spec, self._columns = spec, columns
        self._host = host if spec.domain_field == "url" else label
        fields = (spec.text_field, spec.id_field, spec.domain_field, *(columns or ()))
        self._names = [name for name in dict.fromkeys(fields) if name is not None]
        self.size = 0
        self.texts: list[str | None] = []
        self._ids: list[str | None] = []
        self._domains: list[str | None] = []
        self._rejects: list[str | None] = []
        self._source: list[list[Any]] = [[] for _ in (LINE,) if columns is None] or [[] for _ in columns or ()]

    def add(self, line: bytes | None, *, first: bool) -> None:
        """Adds a line; None stands for one that is too long. A byte order mark is removed from the `first`."""
        if line is None:
            return self._append(None, None, None, TOO_LONG, {}, None)
        self.size += len(line)
        content = line.removeprefix(_BYTE_ORDER_MARK) if first else line
        row, error = parse_line(content, self._names)
        if error is not None:
            return self._append(None, None, None, f"{UNREADABLE}: {error}", {}, line)
        id_ = domain = None
        about = "id"
        try:
            if self._spec.id_field is not None:
                id_ = label(row.get(self._spec.id_field))
            about = "domain"
            if self._spec.domain_field is not None:
                domain = self._host(row.get(self._spec.domain_field))
        except ValueError as failed:
            return self._append(None, None, None, f"{UNREADABLE}: its {about} is {failed}", row, line)
        text = row.get(self._spec.text_field)
        if isinstance(text, str):
            reject = None if text else EMPTY
        elif text is None and self._spec.text_field not in row:
            reject = f"{NOT_TEXT}: no field {self._spec.text_field!r}"
        else:
            reject = f"{NOT_TEXT}: {'null' if text is None else type(text).__name__}"
        return self._append(text if reject is None else None, id_, domain, reject, row, line)

    def _append(
        self,
        text: str | None,
        id_: str | None,
        domain: str | None,
        reject: str | None,
        row: dict[str, Any],
        line: bytes | None,
    ) -> None:
        self.texts.append(text)
        self._ids.append(id_)
        self._domains.append(domain)
        self._rejects.append(reject)
        if self._columns is None:
            self._source[0].append(line)
        for values, name in zip(self._source, self._columns or (), strict=False):
            values.append(_value(row.get(name)))

    def batch(self) -> pa.RecordBatch:
        """The rows as a batch."""
        source = None
        if self._columns is None:
            source = pa.StructArray.from_arrays([pa.array(self._source[0], pa.large_binary())], [LINE])
        elif self._columns:
            arrays = [pa.array(values, pa.large_string()) for values in self._source]
            source = pa.StructArray.from_arrays(arrays, list(self._columns))
        return make_batch(
            pa.array(self.texts, pa.large_string()),
            pa.array(self._ids, pa.string()),
            pa.array(self._domains, pa.string()),
            pa.array(self._rejects, pa.string()),
            source,
        )


def _value(value: Any) -> str | None:
    try:
        return None if value is None else json_text(value)
    except ValueError:  # nested too deep
        return None


def parse_line(line: bytes, names: list[str]) -> tuple[dict[str, Any], str | None]:
    """Parses a JSON line; returns its object, whose fields `names` are exact and valid Unicode, or why it has none."""
    row: Any
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if not line.strip():
            return {}, "blank line"
        try:
            row = json.loads(line.decode())  # accepts what Python writes: NaN and lone surrogates
        except (ValueError, RecursionError):
            return {}, _why(line, error)
        if isinstance(row, dict):
            row |= {name: valid_unicode(row[name]) for name in names if isinstance(row.get(name), str)}
    else:
        if isinstance(row, dict):
            for name in names:
                value = row.get(name)
                if isinstance(value, float) and abs(value) >= _EXACT:
                    row = json.loads(line.decode())  # it may have been an integer
                    break
    return (row, None) if isinstance(row, dict) else ({}, "not a JSON object")


def _why(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    return f"invalid JSON ({reason(error)})"
