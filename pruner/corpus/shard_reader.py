"""Reads a shard's documents in blocks of bounded size; a row that is no document becomes a reject with a reason."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pruner.corpus.files import CorpusFile, reason
from pruner.corpus.paths import OWN, Roots
from pruner.corpus.plan import ROWS_FREE, Plan, Shard, check_unchanged, is_stringy
from pruner.errors import InputError
from pruner.spec import CorpusSpec

BLOCK_ROWS = 2_048
BLOCK_CHARACTERS = 1 << 20  # few, so that the first is soon there; a block ends with the document that reaches it
DOCUMENT_BYTES_MAX = 64 << 20  # of a document's text or JSON line; a longer one is a reject
LABEL_CHARACTERS_MAX = 16_384  # of an id or a domain; a row with a longer one is a reject
_BATCH_ROWS = 64  # that are decoded at a time: few, as a row may be long
_BATCH_BYTES = 8 << 20  # of text that they are to have, by what the footer says
_CHUNK = 1 << 20  # bytes read from a stream at a time
_GROWTH_MAX = 1000  # bytes that a byte of a file may become; more is no text but a bomb
_GROWTH_FREE = 64 << 20  # bytes that any file may become
_EXACT = 2.0**53  # below it all integers are numbers of their own, and above it orjson makes some of them floats

NOT_TEXT = "not text"
EMPTY = "empty text"
UNREADABLE = "unreadable row"


@dataclass
class Block:
    """Consecutive rows of a shard. Of each, `texts` or `rejects` is None: it is a document, or there is a reason."""

    texts: list[str | None] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    domains: list[str | None] = field(default_factory=list)
    rejects: list[str | None] = field(default_factory=list)
    characters: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.texts)

    def alone(self, row: int) -> "Block":
        """A block of one of its rows."""
        block = Block()
        block.add(self.texts[row], self.rejects[row], self.ids[row], self.domains[row])
        return block

    def add(self, text: str | None, reject: str | None, id_: str | None, domain: str | None) -> None:
        """Appends a row."""
        self.texts.append(text)
        self.rejects.append(reject)
        self.ids.append(id_)
        self.domains.append(domain)
        self.characters += 0 if text is None else len(text)


@dataclass(frozen=True)
class _Row:
    """A row's fields as they were found; `error` says why none could be."""

    text: Any = None
    id: Any = None
    domain: Any = None
    error: str | None = None
    absent: bool = False  # the row has no such field as text


def _too_long() -> _Row:
    return _Row(error=f"longer than {DOCUMENT_BYTES_MAX >> 20} MiB")


class _Growth:
    """Counts the bytes and rows that a file becomes. Raises InputError where its size makes them a bomb."""

    def __init__(self, file: CorpusFile) -> None:
        self._file = file
        self._left = max(_GROWTH_FREE, _GROWTH_MAX * file.size)
        self._rows_left = max(ROWS_FREE, file.size)

    def add_row(self) -> None:
        self._rows_left -= 1
        if self._rows_left < 0:
            raise InputError(
                f"{self._file.url}: its {self._file.size:,} bytes become more rows than bytes; leave it out"
            )

    def add(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise InputError(
                f"{self._file.url}: its {self._file.size:,} bytes become more than {_GROWTH_MAX:,} times as many,"
                " as those of no text do; leave it out"
            )


def read_shard(
    plan: Plan, shard: Shard, spec: CorpusSpec, roots: Roots = OWN, batch_rows: int = _BATCH_ROWS
) -> Iterator[Block]:
    """The shard's rows in order, in blocks that depend on nothing but the shard.

    At most `batch_rows` rows are decoded at a time. Raises InputError naming the file where it is damaged, or is not as
    it was planned before or after the reading.
    """
    check_unchanged(plan, shard.file, roots)
    file = plan.files[shard.file]
    block, growth = Block(), _Growth(file)
    with file.open(roots) as source:
        rows = (
            _parquet_rows(file, source, shard, spec, batch_rows, growth)
            if file.format == "parquet"
            else _jsonl_rows(file, source, shard, spec, growth)
        )
        for row in rows:
            growth.add_row()
            block.add(*_document(row, spec))
            if block.rows == BLOCK_ROWS or block.characters >= BLOCK_CHARACTERS:
                yield block
                block = Block()
    check_unchanged(plan, shard.file, roots)
    if block.rows:
        yield block


def _document(row: _Row, spec: CorpusSpec) -> tuple[str | None, str | None, str | None, str | None]:
    """A row's text, or the reason it has none; its id and its domain."""
    text, reject = _text(row, spec)
    try:
        label = "id"
        id_ = _label(row.id)
        label = "domain"
        domain = _host(row.domain) if spec.domain_field == "url" else _label(row.domain)
    except ValueError as error:
        return None, f"{UNREADABLE}: its {label} is {error}", None, None
    return text, reject, id_, domain


def _text(row: _Row, spec: CorpusSpec) -> tuple[str | None, str | None]:
    """A row's text, or the reason it has none."""
    text = row.text
    if row.error is not None:
        return None, f"{UNREADABLE}: {row.error}"
    if row.absent:
        return None, f"{NOT_TEXT}: no field {spec.text_field!r}"
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            return None, f"{UNREADABLE}: invalid UTF-8"
    if not isinstance(text, str):
        return None, f"{NOT_TEXT}: {'null' if text is None else type(text).__name__}"
    return (text, None) if text else (None, EMPTY)


def _label(value: Any) -> str | None:
    """An id or a domain as a string; null stays null. Raises ValueError for one that is no label."""
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    elif isinstance(value, (dict, list)):
        try:
            value = orjson.dumps(value).decode()
        except TypeError as error:
            if "Recursion" in str(error):
                raise ValueError("nested too deep") from None
            # It holds what orjson does not write: a large integer, or half a character.
            value = writable(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str))
    elif not isinstance(value, str):
        value = str(value)
    if len(value) > LABEL_CHARACTERS_MAX:
        raise ValueError(f"longer than {LABEL_CHARACTERS_MAX:,} characters")
    return value  # type: ignore[no-any-return]


def _host(value: Any) -> str | None:
    """The host of a URL, or null for what has none."""
    try:
        return urlsplit(_label(value) or "").hostname or None
    except ValueError:
        return None


def _parquet_rows(
    file: CorpusFile, source: BinaryIO, shard: Shard, spec: CorpusSpec, batch_rows: int, growth: _Growth
) -> Iterator[_Row]:
    names = [spec.text_field, *(name for name in (spec.id_field, spec.domain_field) if name is not None)]
    planned = _BATCH_BYTES * (shard.rows or 1) // max(1, shard.text_bytes)
    try:
        # A page at a time: buffering ahead would hold whole row groups.
        parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=_CHUNK)
        for batch in parquet.iter_batches(
            max(1, min(batch_rows, planned)),
            row_groups=range(shard.start, shard.stop),
            columns=list(dict.fromkeys(names)),
            use_threads=False,
        ):
            growth.add(batch.nbytes)
            columns = {name: _values(batch.column(name)) for name in set(names)}
            ids = columns[spec.id_field] if spec.id_field is not None else [None] * len(batch)
            domains = columns[spec.domain_field] if spec.domain_field is not None else [None] * len(batch)
            for text, id_, domain in zip(columns[spec.text_field], ids, domains, strict=True):
                long = any(isinstance(value, _Long) for value in (text, id_, domain))
                yield _too_long() if long else _Row(text, id_, domain)
    except MemoryError:  # Arrow's is one of its other errors too
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{file.url}: cannot be read as Parquet ({reason(error)})") from None


class _Long:
    """Stands for a value over DOCUMENT_BYTES_MAX."""


def _values(column: Any) -> list[Any]:
    """A column's values; strings as str, or as bytes where one of them is not UTF-8."""
    if pa.types.is_dictionary(column.type):
        words, places = column.dictionary, column.indices.to_pylist()
        used = {place: _values(words.slice(place, 1))[0] for place in set(places) if place is not None}
        return [None if place is None else used[place] for place in places]
    if not is_stringy(column.type):
        try:
            return column.to_pylist()  # type: ignore[no-any-return]
        except (OverflowError, ValueError):
            if not pa.types.is_temporal(column.type):
                raise
            return _times(column)
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        column = column.cast(pa.large_binary())
    long = pc.fill_null(pc.greater(pc.binary_length(column), DOCUMENT_BYTES_MAX), False)
    if pc.any(long).as_py():
        rest = iter(_values(column.filter(pc.invert(long))))
        return [_Long() if is_long else next(rest) for is_long in long.to_pylist()]
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return column.cast(pa.large_binary()).to_pylist()  # type: ignore[no-any-return]


def _times(column: Any) -> list[str | None]:
    """Times of which Python has none such: far away, of nanoseconds, or in an unknown zone."""
    if pa.types.is_timestamp(column.type) and column.type.tz is not None:
        column = column.cast(pa.timestamp(column.type.unit, "UTC"))
    return column.cast(pa.string()).to_pylist()  # type: ignore[no-any-return]


def _jsonl_rows(file: CorpusFile, source: BinaryIO, shard: Shard, spec: CorpusSpec, growth: _Growth) -> Iterator[_Row]:
    try:
        if file.compression is not None:
            stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), file.compression)

            def read(size: int) -> bytes:
                data: bytes = stream.read(size)
                growth.add(len(data))
                return data

            lines = _lines(read, None)
        else:
            lines = _range_lines(source, shard)
        for number, line in enumerate(lines):
            yield _json_row(line.removeprefix(b"\xef\xbb\xbf") if number == 0 and line else line, spec)
    except MemoryError:  # Arrow's is one of its other errors too
        raise
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.url}: cannot be read as {file.compression or 'JSON'} lines ({reason(error)})"
        ) from None


def _range_lines(source: BinaryIO, shard: Shard) -> Iterator[bytes | None]:
    """The lines that start in the shard's byte range."""
    start = shard.start
    if start > 0:
        # A line starts at `start` only if the byte before ends one; else the range begins with the next line.
        source.seek(start - 1)
        start -= 1
        while True:
            piece = source.readline(_CHUNK)
            start += len(piece)
            if not piece or piece.endswith(b"\n"):
                break
            if start >= shard.stop:  # a line longer than the range: others need not read on to its end
                return
    source.seek(start)
    if start < shard.stop:
        yield from _lines(source.read, shard.stop - start)


def _lines(read: Callable[[int], bytes], span: int | None) -> Iterator[bytes | None]:
    """The lines of a stream that start within `span` bytes, without their ends; None for one that is too long.

    What follows the last line end is a line only if there is something.
    """
    start, size, parts = 0, 0, list[bytes]()  # of the line that is being gathered
    while chunk := read(_CHUNK):
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
            yield None  # nothing starts in the range after it
            return
    if size and (span is None or start < span):
        yield b"".join(parts) if size <= DOCUMENT_BYTES_MAX else None


def _json_row(line: bytes | None, spec: CorpusSpec) -> _Row:
    if line is None:
        return _too_long()
    if not line.strip():
        return _Row(error="blank line")
    try:
        row, strict = orjson.loads(line), True
    except orjson.JSONDecodeError as error:
        try:
            row, strict = json.loads(line.decode()), False  # takes what Python writes: NaN, halves of characters
        except (ValueError, RecursionError):
            return _Row(error=_why(line, error))
    if not isinstance(row, dict):
        return _Row(error="not a JSON object")
    names = [spec.text_field, spec.id_field, spec.domain_field]
    if strict and any(
        isinstance(row.get(name), float) and abs(row[name]) >= _EXACT for name in names if name is not None
    ):
        row = json.loads(line.decode())  # it may have been an integer
    text, id_, domain = (None if name is None else row.get(name) for name in names)
    if not strict:
        text, id_, domain = (writable(v) if isinstance(v, str) else v for v in (text, id_, domain))
    return _Row(text, id_, domain, absent=spec.text_field not in row)


def writable(text: str) -> str:
    """A text in which what no UTF-8 can hold, half a pair of surrogates, has become `?`."""
    return text.encode(errors="replace").decode()


def _why(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    return f"invalid JSON ({reason(error)})"
