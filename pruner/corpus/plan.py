"""The plan of a corpus: its files and the shards (units of work) that they are cut into.

Shards are cut from Parquet footers and file sizes alone; no text is read.
"""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.files import CorpusFile, find_files
from pruner.corpus.parquet_footer import Footer, footer_digest, read_footer
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from pruner.tables.records import Record, parse_record
from pruner.tables.storage import Storage

SHARD_BYTES = 32 << 20  # target size of a shard, in bytes of text
SHARD_BYTES_MAX = 64 << 20  # exceeded only by a single larger row group
_EXPANSION = 4  # estimated bytes of text for each compressed byte
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Shard:
    """Row groups [start, stop) of a Parquet file, bytes [start, stop) of a JSONL file, or a whole compressed file.

    A line belongs to the byte range in which it starts.
    """

    index: int
    file: int  # index into the plan's files
    start: int
    stop: int
    rows: int | None  # None where no footer tells it
    text_bytes: int  # estimate
    digest: str  # identifies the documents: a hash of the file as planned, the part of it, and the fields to read


@dataclass(frozen=True)
class Plan:
    """The files and shards of a corpus, in plan order."""

    files: tuple[CorpusFile, ...]
    shards: tuple[Shard, ...]

    @property
    def documents(self) -> int | None:
        """The number of documents, or None if a file does not tell."""
        rows = [shard.rows for shard in self.shards]
        return None if None in rows else sum(n or 0 for n in rows)

    @property
    def text_bytes(self) -> int:
        """The estimated bytes of text."""
        return sum(shard.text_bytes for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """Identifies the documents of the corpus and their order: SHA-256 over the shards' digests, 64 hex digits."""
        return hashlib.sha256("".join(shard.digest for shard in self.shards).encode()).hexdigest()


def make_plan(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    at_once: int = _FOOTERS_AT_ONCE,
    on_path: Callable[[str], None] = lambda _path: None,
    on_file: Callable[[str], None] = lambda _url: None,
) -> Plan:
    """Finds the files of a corpus and cuts them by a fixed rule: the same files always give the same shards.

    `at_once` footers are read concurrently. `on_path` is called before a path of the corpus is listed, `on_file` (from
    several threads) before a file is looked at. Raises InputError for paths that are wrong or not under a root, damaged
    files, fields that are missing or have an unsupported type, and an empty corpus.
    """
    files = find_files(spec.paths, roots, on_path)

    def read(file: CorpusFile) -> Footer | None:
        on_file(file.url)
        return read_footer(file, spec, roots) if file.format == "parquet" else None

    with ThreadPoolExecutor(at_once) as pool:
        footers = list(pool.map(read, files))
    planned: list[CorpusFile] = []
    shards: list[Shard] = []
    for number, (file, footer) in enumerate(zip(files, footers, strict=True)):
        planned.append(replace(file, footer=footer.digest) if footer is not None else file)
        hashed = _hash_file(planned[-1], spec)
        for start, stop, rows, size in _cut(file, footer):
            digest = hashlib.sha256(hashed + orjson.dumps([start, stop])).hexdigest()
            shards.append(Shard(len(shards), number, start, stop, rows, size, digest))
    if not shards:
        others = " and the other files" if len(files) > 1 else ""
        raise InputError(f"the corpus is empty: there are no documents in {files[0].url}{others}")
    return Plan(tuple(planned), tuple(shards))


def _hash_file(file: CorpusFile, spec: CorpusSpec) -> bytes:
    """The part of a shard's digest that all shards of a file share."""
    fields = [spec.text_field, spec.id_field, spec.domain_field]
    return hashlib.sha256(orjson.dumps([asdict(file), fields])).digest()


def _cut(file: CorpusFile, footer: Footer | None) -> Iterator[tuple[int, int, int | None, int]]:
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


def check_unchanged(file: CorpusFile, roots: Roots = UNRESTRICTED) -> None:
    """Raises InputError naming the file if its size, version or footer is not as it was planned."""
    changed = not file.is_unchanged()
    if not changed and file.footer is not None:
        with file.open(roots) as source:
            changed = footer_digest(file, source) != file.footer
    if changed:
        raise InputError(f"{file.url}: changed between planning and scoring; submit the job again")


class _PlanMetadata(Record):
    """What plan.parquet holds beside its rows, the shards."""

    files: tuple[CorpusFile, ...]


_COLUMNS = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.int64()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
        ("rows", pa.int64()),
        ("text_bytes", pa.int64()),
        ("digest", pa.string()),
    ]
)


def write_plan(storage: Storage, path: str, plan: Plan) -> None:
    """Writes a plan as Parquet: a row for each shard, the files in the metadata key `winnow`."""
    columns = [
        pa.array([getattr(shard, name) for shard in plan.shards], _COLUMNS.field(name).type) for name in _COLUMNS.names
    ]
    metadata = {"winnow": orjson.dumps(_PlanMetadata(files=plan.files).model_dump())}
    with storage.create(path) as out:
        pq.write_table(pa.table(columns, schema=_COLUMNS.with_metadata(metadata)), out, compression="zstd")


def read_plan(storage: Storage, path: str) -> Plan:
    """Reads a plan. Raises FileNotFoundError, and InputError if it has another format version."""
    with storage.open(path) as source:
        table = pq.read_table(source)
    metadata = parse_record((table.schema.metadata or {}).get(b"winnow", b"{}"), _PlanMetadata, path)
    shards = tuple(Shard(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
    return Plan(metadata.files, shards)
