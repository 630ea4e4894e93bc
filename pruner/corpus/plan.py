"""How a corpus is cut into shards, the units of work: from footers and file sizes alone, never from text."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.files import CorpusFile, find_files, reason
from pruner.corpus.paths import OWN, Roots
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage

SHARD_BYTES = 32 << 20  # of text a shard is to have
SHARD_BYTES_MAX = 64 << 20  # that only a single row group may exceed
_EXPANSION = 4  # bytes of text a compressed byte stands for: a guess, as text is not read
_FOOTERS_AT_ONCE = 16
_MAX_FOOTER = 64 << 20  # bytes; a larger one is no corpus file of ours
_MAX_COLUMNS = 10_000
_MAX_ITEMS = 200_000  # in any list of a footer, such as its row groups or its columns
ROWS_FREE = 1_000_000  # rows that a file may have however small it is; beyond, a row takes at least a byte


@dataclass(frozen=True)
class Shard:
    """Row groups [start, stop) of a Parquet file, bytes [start, stop) of a plain JSONL file, or a whole compressed one.

    A line belongs to the byte range in which it starts. `rows` is None where no footer tells it.
    """

    index: int
    file: int  # index into the plan's files
    start: int
    stop: int
    rows: int | None
    text_bytes: int  # about


@dataclass(frozen=True)
class Plan:
    """The files and the shards of a corpus, in plan order. `footers` are digests, None for files that have none."""

    files: tuple[CorpusFile, ...]
    footers: tuple[str | None, ...]
    shards: tuple[Shard, ...]

    @property
    def documents(self) -> int | None:
        """How many documents there are, or None if some file does not tell."""
        rows = [shard.rows for shard in self.shards]
        return None if None in rows else sum(n or 0 for n in rows)


@dataclass(frozen=True)
class _Footer:
    digest: str
    groups: list[tuple[int, int]]  # rows and bytes of text of each row group


def make_plan(
    spec: CorpusSpec,
    roots: Roots = OWN,
    at_once: int = _FOOTERS_AT_ONCE,
    on_file: Callable[[str], None] = lambda _url: None,
) -> Plan:
    """Finds the files and cuts them by a fixed rule, so that the same files always give the same shards.

    `at_once` footers are read side by side; `on_file` is told of each file before. Raises InputError for paths that are
    wrong or under no root, files that are damaged, fields that are not there or not of a type that can be read, and a
    corpus with nothing in it.
    """
    files = find_files(spec.paths, roots)

    def look(file: CorpusFile) -> _Footer | None:
        on_file(file.url)
        return _read_footer(file, spec, roots) if file.format == "parquet" else None

    with ThreadPoolExecutor(at_once) as pool:
        footers = list(pool.map(look, files))
    shards: list[Shard] = []
    for number, (file, footer) in enumerate(zip(files, footers, strict=True)):
        for start, stop, rows, size in _cut(file, footer):
            shards.append(Shard(len(shards), number, start, stop, rows, size))
    if not shards:
        raise InputError(f"the corpus is empty: no documents in {files[0].url}{' and the others' * (len(files) > 1)}")
    return Plan(tuple(files), tuple(footer.digest if footer else None for footer in footers), tuple(shards))


def _cut(file: CorpusFile, footer: _Footer | None) -> Iterator[tuple[int, int, int | None, int]]:
    """(start, stop, rows, bytes of text) of each shard of a file."""
    if footer is not None:
        yield from _cut_row_groups(footer.groups)
    elif file.size == 0:
        return
    elif file.compression is not None:
        yield 0, file.size, None, file.size * _EXPANSION
    else:
        pieces = max(1, round(file.size / SHARD_BYTES))
        step = -(-file.size // pieces)
        for start in range(0, file.size, step):
            stop = min(start + step, file.size)
            yield start, stop, None, stop - start


def _cut_row_groups(groups: list[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    start, rows, size = 0, 0, 0
    for number, (more_rows, more_size) in enumerate(groups):
        if rows and (size >= SHARD_BYTES or size + more_size > SHARD_BYTES_MAX):
            yield start, number, rows, size
            start, rows, size = number, 0, 0
        rows, size = rows + more_rows, size + more_size
    if rows:
        yield start, len(groups), rows, size


def _read_footer(file: CorpusFile, spec: CorpusSpec, roots: Roots) -> _Footer:
    with file.open(roots) as source:
        digest = _footer_digest(file, source)
        try:
            metadata = pq.ParquetFile(source, thrift_container_size_limit=_MAX_ITEMS).metadata
            schema = metadata.schema.to_arrow_schema()
        except MemoryError:  # Arrow's is one of its other errors too
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InputError(f"{file.url}: its Parquet footer cannot be read ({reason(error)})") from None
    if len(schema) > _MAX_COLUMNS:
        raise InputError(f"{file.url}: has {len(schema):,} columns; a corpus file has at most {_MAX_COLUMNS:,}")
    if metadata.num_rows > max(ROWS_FREE, file.size):
        raise InputError(f"{file.url}: claims {metadata.num_rows:,} rows in {file.size:,} bytes, which is no corpus")
    _check_field(file, schema, "text_field", spec.text_field)
    for name, field in (("id_field", spec.id_field), ("domain_field", spec.domain_field)):
        if field is not None:
            _check_field(file, schema, name, field)
    columns = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    text = columns.index(spec.text_field)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    return _Footer(digest, [(group.num_rows, group.column(text).total_uncompressed_size) for group in groups])


def _footer_digest(file: CorpusFile, source: BinaryIO) -> str:
    """SHA-256 of the footer's bytes."""
    size = source.seek(0, 2)
    source.seek(max(0, size - 8))
    tail = source.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length + 12 > size:
        raise InputError(f"{file.url}: not a whole Parquet file; it is truncated or of another format")
    if length > _MAX_FOOTER:
        raise InputError(f"{file.url}: its Parquet footer claims {length:,} bytes; a corpus file has far less")
    source.seek(size - 8 - length)
    return hashlib.sha256(source.read(length)).hexdigest()


def _check_field(file: CorpusFile, schema: Any, name: str, field: str) -> None:
    if field not in schema.names:
        there = ", ".join(schema.names[:20]) + (", …" if len(schema) > 20 else "")
        raise InputError(f"{file.url}: no column {field!r} for corpus.{name}; the file has {there}")
    if schema.names.count(field) > 1:
        raise InputError(f"{file.url}: has several columns {field!r}; corpus.{name} must name one")
    kind = schema.field(field).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    stringy = is_stringy(kind) or pa.types.is_null(kind)
    if name == "text_field" and not stringy:
        raise InputError(f"{file.url}: column {field!r} is {kind}, not text; choose another corpus.text_field")
    if pa.types.is_nested(kind):
        raise InputError(f"{file.url}: column {field!r} is {kind}, not a plain value; choose another corpus.{name}")


def is_stringy(kind: Any) -> bool:
    """Whether values of an Arrow type are strings, or bytes that may be UTF-8."""
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(
        check(kind) for check in (*checks, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    )


def check_unchanged(plan: Plan, file: int, roots: Roots = OWN) -> None:
    """Raises InputError naming a file whose size, version or footer is not what the plan saw."""
    planned, footer = plan.files[file], plan.footers[file]
    changed = planned.now() != planned
    if not changed and footer is not None:
        with planned.open(roots) as source:
            changed = _footer_digest(planned, source) != footer
    if changed:
        raise InputError(f"{planned.url}: changed between planning and scoring; submit the job again")


def shard_digest(plan: Plan, shard: Shard, spec: CorpusSpec) -> str:
    """What a shard's documents are, 64 hex digits: the file as planned, the part of it, the fields that are read."""
    fields = [spec.text_field, spec.id_field, spec.domain_field]
    parts = [asdict(plan.files[shard.file]), plan.footers[shard.file], shard.start, shard.stop, fields]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def write_plan(storage: Storage, path: str, plan: Plan) -> None:
    """Writes a plan as Parquet: a row a shard, the files in the metadata."""
    files = {"files": [asdict(file) for file in plan.files], "footers": plan.footers}
    table = pa.Table.from_pylist([asdict(shard) for shard in plan.shards], schema=_SCHEMA)
    with storage.create(path) as out:
        pq.write_table(table.replace_schema_metadata({"winnow": json.dumps(files)}), out, compression="zstd")


def read_plan(storage: Storage, path: str) -> Plan:
    """Reads what `write_plan` wrote."""
    with storage.open(path) as source:
        table = pq.read_table(source)
    about = json.loads(table.schema.metadata[b"winnow"])
    shards = tuple(Shard(**row) for row in table.to_pylist())
    return Plan(tuple(CorpusFile(**file) for file in about["files"]), tuple(about["footers"]), shards)


_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("rows", pa.int64()),
        ("text_bytes", pa.int64()),
    ]
)
