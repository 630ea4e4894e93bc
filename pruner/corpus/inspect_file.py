"""Looks into a file before it is planned: its format, its fields, and the units that shards are made of.

Reads the footer of a Parquet file, the message headers of an Arrow file, and of a text file the first rows.
"""

import io
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from pruner.corpus.arrow_fields import ArrowField, find_field, is_string_like, schema_fields, storage_type
from pruner.corpus.arrow_reader import arrow_batches, arrow_schema, read_messages, record_batches
from pruner.corpus.codecs import DECODE_ERRORS, decoded
from pruner.corpus.column_pieces import named_fields
from pruner.corpus.content import (
    BYTE_ORDER_MARK,
    HEAD_BYTES,
    binary_format,
    codec_of,
    first_line,
    is_json_line,
    is_lfs_pointer,
    is_text,
    other_format,
)
from pruner.corpus.fields import ABSENT, find_value, path_value
from pruner.corpus.files import CorpusFile, open_path
from pruner.corpus.growth import GrowthLimit
from pruner.corpus.lines import content_end
from pruner.corpus.listing import FoundFile
from pruner.corpus.names import Codec, Format, format_of
from pruner.corpus.parquet_footer import footer_digest, read_footer
from pruner.corpus.parquet_reader import is_below_path, parquet_batches
from pruner.corpus.paths import Roots
from pruner.corpus.text_rows import text_rows
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec

LOOK_ROWS = 1_000  # of a text file, in which a field must appear
_FIELD_ROWS = 20  # of a text file, whose fields are named
_NAMES_MAX = 1_000  # fields whose names are kept
_POINTER_BYTES = 1_024  # more than a Git LFS pointer has
_EXPANSION = 4  # estimated bytes of text for each compressed byte
_SAMPLE_FROM = 256 << 10  # bytes of a compressed file; smaller ones cannot have so much text that it must be cut
_SAMPLE_BYTES = 1 << 20  # of a compressed file that are decoded to estimate its text; a block of bz2 has fewer
_SAMPLE_DECODED_MAX = 64 << 20
_PIECE_BYTES = 1 << 16  # decoded at a time; a stream of zstd that ends within a piece gives nothing of it


@dataclass(frozen=True)
class Inspected:
    """What planning needs to know of a file."""

    file: CorpusFile
    units: list[tuple[int, int]] | None = None  # rows and bytes of each row group or record batch; None: a text file
    end: int = 0  # of a text file: the offset after its text; of a compressed one an estimate
    fields: dict[str, str] = field(default_factory=dict)  # names that were met, and their types
    has: frozenset[str] = frozenset()  # the fields of the corpus that it has, in its rows or by its path
    empty: bool = False  # it has no rows


class NoCorpusFile(Exception):
    """The file is no corpus file, and is left out. The message is the reason, for files of its kind."""


def inspect_file(found: FoundFile, spec: CorpusSpec, roots: Roots, numbers: Sequence[str] = ()) -> Inspected:
    """Looks into a file, also for the fields `numbers`.

    Raises NoCorpusFile, and InputError naming the file if it is damaged or of an unknown kind.
    """
    fields = list(dict.fromkeys([*named_fields(spec), *numbers]))
    name = found.path.path.rpartition("/")[2]
    with open_path(found.path, roots) as source:
        try:
            head = b"" if _is_parquet(name) and found.size > _POINTER_BYTES else source.read(HEAD_BYTES)
            if is_lfs_pointer(head):
                raise InputError(f"{found.url}: a Git LFS pointer, not the file itself; get the file by `git lfs pull`")
            kind, codec, head = _recognise(found, name, head, source)
            file = CorpusFile(found.path, kind, codec, found.size, found.version, found.relative)
            if kind == "parquet":
                return _inspect_parquet(file, source, spec, fields)
            if kind == "arrow":
                return _inspect_arrow(file, source, spec, fields)
            return _inspect_text(file, source, head, spec, fields)
        except MemoryError:  # Arrow's MemoryError is an ArrowException too
            raise
        except (*DECODE_ERRORS, ValueError) as error:
            raise InputError(f"{found.url}: cannot be read ({reason(error)})") from None


def _recognise(found: FoundFile, name: str, head: bytes, source: BinaryIO) -> tuple[Format, Codec | None, bytes]:
    """Format and codec of a file, and its first decoded bytes. The content decides, the name is a hint."""
    if _is_parquet(name):
        return "parquet", None, head
    named = format_of(name)
    codec = codec_of(head)
    if codec is not None:
        source.seek(0)
        head = _read_head(source, codec, found)
    kind = binary_format(head)
    if kind is not None:
        if codec is not None:
            raise InputError(f"{found.url}: a {kind} file that was compressed as a whole; decompress it")
        return kind, codec, head
    other = other_format(head)
    if other is None and named in ("csv", "tsv"):
        return named, codec, head
    if other is None and (named == "jsonl" or is_json_line(head)):
        return "jsonl", codec, head
    if named == "arrow" and other is None:
        raise InputError(f"{found.url}: not an Arrow file; it is truncated or has another format")
    if other is None and codec is None and is_text(head) and not found.named:
        raise NoCorpusFile("text that is not JSON lines" if head.strip() else "empty files of unknown kinds")
    what = other or ("text that is not JSON lines" if is_text(head) else "data of an unknown kind")
    raise InputError(f"{found.url}: {what}; convert it to JSON lines or Parquet, or exclude it")


def _is_parquet(name: str) -> bool:
    """Whether the name alone says that the file is Parquet, so that its beginning need not be read."""
    return name.lower().endswith(".parquet")


def _read_head(source: BinaryIO, codec: Codec, found: FoundFile) -> bytes:
    read, parts, size = decoded(source, codec), list[bytes](), 0
    growth = GrowthLimit(found.url, found.size)
    while size < HEAD_BYTES and (part := read(HEAD_BYTES - size)):
        growth.add_bytes(len(part))
        parts.append(part)
        size += len(part)
    return b"".join(parts)


# -- Parquet and Arrow
def _inspect_parquet(file: CorpusFile, source: BinaryIO, spec: CorpusSpec, fields: list[str]) -> Inspected:
    digest = footer_digest(file.url, source)
    parquet = read_footer(file.url, file.size, source)
    metadata, schema = parquet.metadata, parquet.schema_arrow
    places = _places(file, schema, spec, fields)
    text = places[spec.text_field]
    leaves = [
        i for i in range(metadata.num_columns) if text and is_below_path(metadata.schema.column(i).path, [text.path])
    ]
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    units = [(group.num_rows, sum(group.column(i).total_uncompressed_size for i in leaves)) for group in groups]
    has = _has(file, spec, places, lambda json: parquet_batches(parquet, range(len(groups)), json, 0, 64))
    names = schema_fields(schema, _NAMES_MAX)
    return Inspected(replace(file, footer=digest), units, file.size, names, has, metadata.num_rows == 0)


def _inspect_arrow(file: CorpusFile, source: BinaryIO, spec: CorpusSpec, fields: list[str]) -> Inspected:
    messages = read_messages(source)
    schema = arrow_schema(source, messages)
    units = [(message.rows, message.stop - message.start) for message in record_batches(messages)]
    places = _places(file, schema, spec, fields)
    has = _has(file, spec, places, lambda _json: arrow_batches(source, messages, 0, 1, 0))
    return Inspected(file, units, file.size, schema_fields(schema, _NAMES_MAX), has, not sum(r for r, _ in units))


def _places(file: CorpusFile, schema: pa.Schema, spec: CorpusSpec, fields: list[str]) -> dict[str, ArrowField | None]:
    """Where the fields lie. Raises InputError for a text field of another type, and for equal column names."""
    places = {name: find_field(schema, name) for name in fields}
    for name, place in places.items():
        if place is not None and schema.names.count(place.column) > 1:
            raise InputError(f"{file.url}: has several columns {place.column!r}; {name!r} must name a unique one")
    text = places[spec.text_field]
    if text is not None and not text.is_json:
        kind = storage_type(text.type)
        if not (is_string_like(kind) or pa.types.is_null(kind)):
            raise InputError(
                f"{file.url}: column {spec.text_field!r} is {kind}, not text; choose another corpus.text_field"
            )
    return places


def _has(
    file: CorpusFile,
    spec: CorpusSpec,
    places: dict[str, ArrowField | None],
    batches: Callable[[list[str]], Iterable[pa.RecordBatch]],
) -> frozenset[str]:
    """The fields that a file has. Whether maps and JSON texts hold a field is seen in the first rows."""
    has = {name for name, place in places.items() if place is not None and place.key is None} | _by_path(file, spec)
    waiting = {name: place for name, place in places.items() if place is not None and name not in has}
    rows = 0
    for batch in batches(list(waiting)) if waiting else ():
        rows += len(batch)
        for name, place in waiting.items():
            if name not in has and place.is_in(batch):
                has.add(name)
        if rows >= LOOK_ROWS or has >= waiting.keys():
            break
    return frozenset(has)


def _by_path(file: CorpusFile, spec: CorpusSpec) -> set[str]:
    """The fields whose values the file's path gives; never the text."""
    labels = {spec.id_field, spec.domain_field} - {None, spec.text_field}
    return {name for name in labels if name is not None and path_value(file, name) is not ABSENT}


# -- text
def _inspect_text(file: CorpusFile, source: BinaryIO, head: bytes, spec: CorpusSpec, fields: list[str]) -> Inspected:
    if file.format == "jsonl" and _spans_lines(head):
        raise InputError(f"{file.url}: {_ONE_VALUE}")
    end = content_end(source, file.size) if file.compression is None else _decoded_bytes(file, source)
    has = _by_path(file, spec)
    waiting = [name for name in fields if name not in has]
    names: dict[str, str] = {}
    objects = rows = 0
    source.seek(0)
    stop = end if file.compression is None else None
    for row in itertools.islice(text_rows(file, source, 0, stop, waiting), LOOK_ROWS):
        rows += 1
        objects += row.error is None
        _add_names(names, row.values, "", 3)
        has |= {name for name in waiting if find_value(row.values, name) is not ABSENT}
        if rows >= _FIELD_ROWS and has.issuperset(waiting):
            break
    if rows and not objects and file.format == "jsonl":
        raise InputError(f"{file.url}: {_ONE_VALUE if first_line(head)[0].startswith(b'[') else _NO_LINES}")
    return Inspected(file, None, end, names, frozenset(has), not rows)


def _decoded_bytes(file: CorpusFile, source: BinaryIO) -> int:
    """The estimated bytes of text of a compressed file, by its first bytes."""
    if file.compression is None or file.size < _SAMPLE_FROM:
        return file.size * _EXPANSION
    source.seek(0)
    sample = source.read(_SAMPLE_BYTES)
    read, size = decoded(io.BytesIO(sample), file.compression), 0
    with suppress(*DECODE_ERRORS):  # at the latest where the sample ends
        while size < _SAMPLE_DECODED_MAX and (piece := read(_PIECE_BYTES)):
            size += len(piece)
    return file.size * size // len(sample) if size else file.size * _EXPANSION


_ONE_VALUE = (
    "one JSON value over the whole file is not read; write one object a line, as `jq -c '.[]'` does with an array, or "
    "exclude it"
)
_NO_LINES = f"none of its first {LOOK_ROWS:,} lines is a JSON object; exclude it"


def _spans_lines(head: bytes) -> bool:
    """Whether the file begins with a JSON array or object that goes on after the first line.

    A first line that is damaged JSON is a reject: there the next line begins anew.
    """
    text = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    line, end, rest = text.partition(b"\n")
    if not line.startswith((b"[", b"{")) or _is_json(line):
        return False
    if not end:  # longer than the head
        return line.startswith(b"[")
    following = [more for more in rest.split(b"\n", 3)[:2] if more.strip()]
    if following and all(more.lstrip().startswith(b"{") and _is_json(more) for more in following):
        return False
    length = len(line.decode(errors="replace"))
    try:
        return json.JSONDecoder().raw_decode(text.decode(errors="replace"))[1] > length
    except json.JSONDecodeError as error:
        return error.pos > length + 1 + len(rest) - len(rest.lstrip())
    except RecursionError:
        return True


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _add_names(seen: dict[str, str], values: dict[str, Any], prefix: str, depth: int) -> None:
    """Adds the names of a row's fields, those of objects by their paths, with the types of their values."""
    for name, value in values.items():
        if len(seen) >= _NAMES_MAX:
            return
        if isinstance(value, dict) and depth > 1 and value:
            _add_names(seen, value, f"{prefix}{name}.", depth - 1)
        elif seen.get(prefix + name) in (None, "null"):
            seen[prefix + name] = _json_type(value)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "bytes")
