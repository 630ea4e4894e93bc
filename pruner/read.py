"""Reads a shard's documents in blocks of bounded size; a row that is no document becomes a reject with a reason."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus import CorpusFile, reason
from pruner.errors import InputError
from pruner.plan import Plan, Shard, check_unchanged, is_stringy
from pruner.specs import CorpusSpec

BLOCK_ROWS = 2_048
BLOCK_CHARACTERS = 1 << 20  # few, so that the first is soon there; a block ends with the document that reaches it
DOCUMENT_BYTES_MAX = 256 << 20  # of a document's text or JSON line; a longer one is a reject
_BATCH_ROWS = 64  # few, as a row may be long
_CHUNK = 1 << 20  # bytes read from a stream at a time

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


def read_shard(plan: Plan, shard: Shard, spec: CorpusSpec) -> Iterator[Block]:
    """The shard's rows in order, in blocks that depend on nothing but the shard.

    Raises InputError naming the file where it is damaged, or is not as it was planned before or after the reading.
    """
    check_unchanged(plan, shard.file)
    file = plan.files[shard.file]
    block = Block()
    with file.open() as source:
        rows = (
            _parquet_rows(file, source, shard, spec)
            if file.format == "parquet"
            else _jsonl_rows(file, source, shard, spec)
        )
        for row in rows:
            text, reject = _document(row, spec)
            domain = _host(row.domain) if spec.domain_field == "url" else _label(row.domain)
            block.add(text, reject, _label(row.id), domain)
            if block.rows == BLOCK_ROWS or block.characters >= BLOCK_CHARACTERS:
                yield block
                block = Block()
    check_unchanged(plan, shard.file)
    if block.rows:
        yield block


def _document(row: _Row, spec: CorpusSpec) -> tuple[str | None, str | None]:
    """A row's text, or the reason it has none."""
    text = row.text
    if row.error is not None:
        return None, f"{UNREADABLE}: {row.error}"
    if row.absent:
        return None, f"{NOT_TEXT}: no field {spec.text_field!r}"
    if isinstance(text, bytes):
        if len(text) > DOCUMENT_BYTES_MAX:
            return None, f"{UNREADABLE}: longer than {DOCUMENT_BYTES_MAX >> 20} MiB"
        try:
            text = text.decode()
        except UnicodeDecodeError:
            return None, f"{UNREADABLE}: invalid UTF-8"
    if not isinstance(text, str):
        return None, f"{NOT_TEXT}: {'null' if text is None else type(text).__name__}"
    return (text, None) if text else (None, EMPTY)


def _label(value: Any) -> str | None:
    """An id or a domain as a string; null stays null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, (dict, list)):
        return orjson.dumps(value).decode()
    return str(value)


def _host(value: Any) -> str | None:
    """The host of a URL, or null for what has none."""
    try:
        return urlsplit(_label(value) or "").hostname or None
    except ValueError:
        return None


def _parquet_rows(file: CorpusFile, source: BinaryIO, shard: Shard, spec: CorpusSpec) -> Iterator[_Row]:
    names = [spec.text_field, *(name for name in (spec.id_field, spec.domain_field) if name is not None)]
    try:
        parquet = pq.ParquetFile(source)
        for batch in parquet.iter_batches(
            _BATCH_ROWS,
            row_groups=range(shard.start, shard.stop),
            columns=list(dict.fromkeys(names)),
            use_threads=False,
        ):
            columns = {name: _values(batch.column(name)) for name in set(names)}
            ids = columns[spec.id_field] if spec.id_field is not None else [None] * len(batch)
            domains = columns[spec.domain_field] if spec.domain_field is not None else [None] * len(batch)
            for text, id_, domain in zip(columns[spec.text_field], ids, domains, strict=True):
                yield _Row(text, id_, domain)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{file.url}: cannot be read as Parquet ({reason(error)})") from None


def _values(column: Any) -> list[Any]:
    """A column's values; strings as str, or as bytes where one of them is not UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        if not is_stringy(column.type):
            raise
        return column.cast(pa.large_binary()).to_pylist()  # type: ignore[no-any-return]


def _jsonl_rows(file: CorpusFile, source: BinaryIO, shard: Shard, spec: CorpusSpec) -> Iterator[_Row]:
    try:
        if file.compression is not None:
            stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), file.compression)
            lines = _lines(stream.read, None)
        else:
            lines = _range_lines(source, shard)
        for number, line in enumerate(lines):
            yield _json_row(line.removeprefix(b"\xef\xbb\xbf") if number == 0 and line else line, spec)
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
        while True:
            piece = source.readline(_CHUNK)
            start += len(piece)
            if not piece or piece.endswith(b"\n"):
                break
        start -= 1
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
    if size and (span is None or start < span):
        yield b"".join(parts) if size <= DOCUMENT_BYTES_MAX else None


def _json_row(line: bytes | None, spec: CorpusSpec) -> _Row:
    if line is None:
        return _Row(error=f"longer than {DOCUMENT_BYTES_MAX >> 20} MiB")
    if not line.strip():
        return _Row(error="blank line")
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return _Row(error=_why(line, error))
    if not isinstance(row, dict):
        return _Row(error="not a JSON object")
    id_ = row.get(spec.id_field) if spec.id_field is not None else None
    domain = row.get(spec.domain_field) if spec.domain_field is not None else None
    return _Row(row.get(spec.text_field), id_, domain, absent=spec.text_field not in row)


def _why(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "invalid UTF-8"
    return f"invalid JSON ({reason(error)})"
