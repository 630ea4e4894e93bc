"""The plan of a corpus: its files and the shards (units of work) that they are cut into.

Shards are cut by footers, headers and file sizes alone.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple

import orjson

from pruner.corpus.check_fields import check_fields
from pruner.corpus.fields import ABSENT, path_value
from pruner.corpus.files import CorpusFile
from pruner.corpus.inspect_file import Inspected, NoCorpusFile, inspect_file
from pruner.corpus.listing import FoundFile, LeftOut, find_files
from pruner.corpus.parquet_footer import footer_digest
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.errors import InputError
from pruner.spec import CorpusSpec

SHARD_BYTES = 32 << 20  # target size of a shard, in bytes of text
SHARD_BYTES_MAX = 64 << 20  # exceeded only by a single larger unit
_SHARD_FILES = 1_024  # small files that share a shard
_SMALL = 4  # a file is small if so many of its size fit into a shard
_RANGES_FROM = 192 << 20  # estimated bytes of decoded text from which a compressed file is cut into ranges
_RANGE_BYTES = 128 << 20  # of one such range: each is found by decoding the file from its beginning, so few and long
_RANGES_MAX = 32  # for the same reason
FILES_AT_ONCE = 16


@dataclass(frozen=True)
class Shard:
    """Units [start, stop) of a file: row groups of Parquet, record batches of Arrow, bytes of the text of a text file.

    A line belongs to the byte range in which it starts. With `stop` 0 the range ends with the file. A CSV file is
    always whole. A shard of several `files` holds each of them whole; its `start` and `stop` are 0.
    """

    index: int
    file: int  # index into the plan's files, of the first file
    files: int  # consecutive files of the plan
    start: int
    stop: int
    rows: int | None  # None where no footer tells it
    text_bytes: int  # estimate
    digest: str  # identifies the documents: a hash of the files as planned, the part of them, and the fields to read


@dataclass(frozen=True)
class Plan:
    """The files and shards of a corpus, in plan order, and the files that were left out."""

    files: tuple[CorpusFile, ...]
    shards: tuple[Shard, ...]
    left_out: tuple[LeftOut, ...] = ()

    @property
    def documents(self) -> int | None:
        """The number of documents, or None if a file does not tell."""
        rows = [shard.rows for shard in self.shards]
        return None if None in rows else sum(n or 0 for n in rows)

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(file.size for file in self.files)

    @property
    def text_bytes(self) -> int:
        """The estimated bytes of text."""
        return sum(shard.text_bytes for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """Identifies the documents of the corpus and their order: SHA-256 over the shards' digests, 64 hex digits."""
        return hashlib.sha256("".join(shard.digest for shard in self.shards).encode()).hexdigest()

    def files_of(self, shard: Shard) -> tuple[CorpusFile, ...]:
        """The files that a shard reads."""
        return self.files[shard.file : shard.file + shard.files]


def make_plan(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    at_once: int = FILES_AT_ONCE,
    on_path: Callable[[str], None] = lambda _path: None,
    on_file: Callable[[str], None] = lambda _url: None,
    ignored: Sequence[str] = (),
) -> Plan:
    """Finds the files of a corpus and cuts them by a fixed rule: the same files always give the same shards.

    `at_once` files are looked into concurrently. `on_path` is called before a path of the corpus is listed, `on_file`
    (from several threads) before a file is looked at. `ignored` is no part of the corpus, as `list_files` says. Raises
    InputError for paths that are wrong or not under a root, files that are damaged or of an unknown kind, fields that
    are missing or have an unsupported type, and an empty corpus.
    """
    listing = find_files(spec, roots, on_path, ignored)

    def inspect(found: FoundFile) -> Inspected | NoCorpusFile:
        on_file(found.url)
        try:
            return inspect_file(found, spec, roots)
        except NoCorpusFile as left:
            return left

    with ThreadPoolExecutor(at_once) as pool:
        looked = list(pool.map(inspect, listing.files))
    inspected: list[Inspected] = []
    for found, result in zip(listing.files, looked, strict=True):
        if isinstance(result, Inspected):
            inspected.append(result)
        else:
            listing.leave_out(str(result), found.url)
    check_fields(inspected, spec, listing.left_out)
    shards = [
        Shard(index, *cut, digest=_digest(inspected, cut, spec)) for index, cut in enumerate(_cut_files(inspected))
    ]
    if not shards:
        others = " and the other files" if len(inspected) > 1 else ""
        raise InputError(f"the corpus is empty: there are no documents in {inspected[0].file.url}{others}")
    return Plan(tuple(made.file for made in inspected), tuple(shards), listing.left_out)


class _Cut(NamedTuple):
    """A shard without its index and digest."""

    file: int
    files: int
    start: int
    stop: int
    rows: int | None
    text_bytes: int


def _cut_files(inspected: list[Inspected]) -> Iterator[_Cut]:
    """The shards of the files in their order; consecutive small files share one."""
    shared: _Cut | None = None  # the shard that further small files may join
    for number, made in enumerate(inspected):
        cuts = [_Cut(number, 1, *part) for part in _cut(made)]
        if len(cuts) == 1 and cuts[0].text_bytes <= SHARD_BYTES // _SMALL:
            joined = _join(shared, cuts[0]) if shared is not None else None
            if shared is not None and joined is None:
                yield shared
            shared = joined or cuts[0]
        elif cuts:
            if shared is not None:
                yield shared
            shared = None
            yield from cuts
    if shared is not None:
        yield shared


def _join(one: _Cut, two: _Cut) -> _Cut | None:
    """A shard of both, and of the empty files between them; None if it would be too large."""
    size, files = one.text_bytes + two.text_bytes, two.file - one.file + 1
    if size > SHARD_BYTES or files > _SHARD_FILES:
        return None
    rows = None if one.rows is None or two.rows is None else one.rows + two.rows
    return _Cut(one.file, files, 0, 0, rows, size)


def _digest(inspected: list[Inspected], cut: _Cut, spec: CorpusSpec) -> str:
    """The digest of a shard. The path below the corpus root is part of it only where it gives a value."""
    fields = [spec.text_field, spec.id_field, spec.domain_field]
    parts: list[object] = [fields, cut.start, cut.stop]
    for made in inspected[cut.file : cut.file + cut.files]:
        about = asdict(made.file)
        del about["relative"]
        by_path = [path_value(made.file, name) if name is not None else ABSENT for name in fields[1:]]
        parts.append([about, [None if value is ABSENT else [value] for value in by_path]])
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def text_bytes(made: Inspected) -> int:
    """The estimated bytes of text of a file."""
    return sum(size for _, _, _, size in _cut(made))


def _cut(made: Inspected) -> Iterator[tuple[int, int, int | None, int]]:
    """(start, stop, rows, bytes of text) of each shard of a file."""
    if made.units is not None:
        yield from _cut_units(made.units)
    elif made.empty:
        return
    elif made.file.compression is not None:
        yield from _cut_decoded(made)
    else:
        pieces = max(1, round(made.end / SHARD_BYTES)) if made.file.format == "jsonl" else 1
        step = -(-made.end // pieces)
        for start in range(0, made.end, step):
            stop = min(start + step, made.end)
            yield start, stop, None, stop - start


def _cut_decoded(made: Inspected) -> Iterator[tuple[int, int, None, int]]:
    """Ranges of the decoded text, whose size is an estimate: the last one goes on to the end of the file."""
    size = made.end
    ranges = 1
    if made.file.format == "jsonl" and size >= _RANGES_FROM:
        ranges = min(_RANGES_MAX, -(-size // _RANGE_BYTES))
    step = -(-size // ranges)
    for number in range(ranges):
        start = number * step
        yield start, 0 if number == ranges - 1 else start + step, None, step


def _cut_units(units: list[tuple[int, int]]) -> Iterator[tuple[int, int, int, int]]:
    start, rows, size = 0, 0, 0
    for number, (more_rows, more_size) in enumerate(units):
        if rows and (size >= SHARD_BYTES or size + more_size > SHARD_BYTES_MAX):
            yield start, number, rows, size
            start, rows, size = number, 0, 0
        rows, size = rows + more_rows, size + more_size
    if rows:
        yield start, len(units), rows, size


def check_unchanged(file: CorpusFile, roots: Roots = UNRESTRICTED) -> None:
    """Raises InputError naming the file if its size, version or footer is not as it was planned."""
    changed = not file.is_unchanged()
    if not changed and file.footer is not None:
        with file.open(roots) as source:
            changed = footer_digest(file.url, source) != file.footer
    if changed:
        raise InputError(f"{file.url}: changed since it was planned; submit the job again")
