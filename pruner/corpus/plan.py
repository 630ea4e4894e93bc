"""The plan of a corpus: its files and the shards (units of work) that they are cut into.

Shards are cut by footers, headers and file sizes alone.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from pruner.corpus.check_fields import FieldCheck
from pruner.corpus.fields import ABSENT, path_value
from pruner.corpus.files import CorpusFile
from pruner.corpus.inspect_file import Inspected, NoCorpusFile, inspect_file
from pruner.corpus.listing import FoundFile, LeftOut, Listing, OnListed, find_files, ignore_listed
from pruner.corpus.parquet_footer import footer_digest
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan_rows import (
    BATCH_ROWS,
    FILES,
    SHARDS,
    column,
    file_rows,
    planned_files,
    planned_shards,
    shard_rows,
)
from pruner.corpus.shard import Shard
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
_FILES_AHEAD = 1_024  # handed to the threads at a time


@dataclass(frozen=True)
class Plan:
    """The files and shards of a corpus, in plan order, and the files that were left out."""

    files: Sequence[CorpusFile]
    shards: Sequence[Shard]
    left_out: tuple[LeftOut, ...] = ()

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch], left_out: Sequence[LeftOut]) -> "Plan":
        """The plan of rows of files and of shards, each in their order."""
        rows: dict[bool, list[pa.RecordBatch]] = {True: [], False: []}
        for batch in batches:
            rows[batch.schema == FILES].append(batch)
        files, shards = pa.Table.from_batches(rows[True], FILES), pa.Table.from_batches(rows[False], SHARDS)
        return cls(planned_files(files), planned_shards(shards), tuple(left_out))

    @property
    def documents(self) -> int | None:
        """The number of documents, or None if a file does not tell."""
        rows = column(self.shards, "rows")
        return None if None in rows else sum(n or 0 for n in rows)

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(column(self.files, "size"))

    @property
    def text_bytes(self) -> int:
        """The estimated bytes of text."""
        return sum(column(self.shards, "text_bytes"))

    @cached_property
    def digest(self) -> str:
        """Identifies the documents of the corpus and their order: SHA-256 over the shards' digests, 64 hex digits."""
        return hashlib.sha256("".join(column(self.shards, "digest")).encode()).hexdigest()

    @cached_property
    def first_rows(self) -> np.ndarray:
        """The row of its first file at which each shard begins, int64 [shards]; -1 where no footer tells it."""
        file, rows = np.array(column(self.shards, "file"), np.int64), column(self.shards, "rows")
        unknown = np.array([count is None for count in rows], np.int64)
        known = np.array([count or 0 for count in rows], np.int64)
        first = np.searchsorted(file, file)  # the first shard of the same file
        before, unknown_before = (np.cumsum(counts) - counts for counts in (known, unknown))
        tells = unknown_before == unknown_before[first]
        return np.where(tells, before - before[first], -1)

    def files_of(self, shard: Shard) -> tuple[CorpusFile, ...]:
        """The files that a shard reads."""
        return tuple(self.files[shard.file : shard.file + shard.files])


def make_plan(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    at_once: int = FILES_AT_ONCE,
    on_path: Callable[[str], None] = lambda _path: None,
    on_file: Callable[[str], None] = lambda _url: None,
    ignored: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> Plan:
    """Finds the files of a corpus and cuts them by a fixed rule: the same files always give the same shards.

    Arguments and errors as of `plan_corpus`.
    """
    batches: list[pa.RecordBatch] = []
    left_out = plan_corpus(spec, batches.append, roots, at_once, on_path, ignore_listed, on_file, ignored, numbers)
    return Plan.of(batches, left_out)


def plan_corpus(
    spec: CorpusSpec,
    write: Callable[[pa.RecordBatch], None],
    roots: Roots = UNRESTRICTED,
    at_once: int = FILES_AT_ONCE,
    on_path: Callable[[str], None] = lambda _path: None,
    on_listed: OnListed = ignore_listed,
    on_file: Callable[[str], None] = lambda _url: None,
    ignored: Sequence[str] = (),
    numbers: Sequence[str] = (),
) -> tuple[LeftOut, ...]:
    """Gives the files and shards of a corpus to `write` as they are found, some thousand rows at a time.

    `at_once` files are looked into concurrently. `on_path` is called before a path of the corpus is listed, `on_listed`
    as `list_files` says, `on_file` (from several threads) before a file is looked at. `ignored` is no part of the
    corpus, as `list_files` says; `numbers` are fields that give scores. Returns what is left out. Raises InputError for
    paths that are wrong or not under a root, files that are damaged or of an unknown kind, fields that are missing or
    have an unsupported type, and an empty corpus.
    """
    listing = find_files(spec, roots, on_path, ignored, on_listed)
    fields = FieldCheck(spec, numbers)
    with ThreadPoolExecutor(at_once) as pool:
        planner = _Planner(spec, fields, write)
        planner.add(_inspected(listing, spec, roots, pool, on_file, numbers))
    fields.check(listing.left_out)
    if not planner.shards:
        raise InputError(no_documents(planner.first, planner.files))
    return listing.left_out


def no_documents(first: str, files: int) -> str:
    """What is said of a corpus without documents, of so many files."""
    others = " and the other files" if files > 1 else ""
    return f"the corpus is empty: there are no documents in {first}{others}"


def _inspected(
    listing: Listing,
    spec: CorpusSpec,
    roots: Roots,
    pool: ThreadPoolExecutor,
    on_file: Callable[[str], None],
    numbers: Sequence[str],
) -> Iterator[Inspected]:
    """The files of a listing that belong to the corpus, in their order; the others are left out."""

    def inspect(found: FoundFile) -> Inspected | NoCorpusFile:
        on_file(found.url)
        try:
            return inspect_file(found, spec, roots, numbers)
        except NoCorpusFile as left:
            return left

    for start in range(0, len(listing.files), _FILES_AHEAD):
        some = listing.files[start : start + _FILES_AHEAD]
        for found, result in zip(some, pool.map(inspect, some), strict=True):
            if isinstance(result, Inspected):
                yield result
            else:
                listing.leave_out(str(result), found.url)


class _Planner:
    """Cuts files, which come in their order, into shards."""

    def __init__(self, spec: CorpusSpec, fields: FieldCheck, write: Callable[[pa.RecordBatch], None]) -> None:
        self._spec, self._fields, self._write = spec, fields, write
        self._recent = deque[Inspected]()  # files that the next shards may have
        self._recent_from = 0  # the number of the first of them
        self._files: list[CorpusFile] = []  # not written yet
        self.files = self.shards = 0
        self.first = ""  # URL of the first file

    def add(self, inspected: Iterator[Inspected]) -> None:
        """Writes all files and their shards."""
        made: list[Shard] = []
        for cut in _cut_files(self._noted(inspected)):
            while self._recent_from < cut.file:
                self._recent.popleft()
                self._recent_from += 1
            digest = _digest(list(islice(self._recent, cut.files)), cut, self._spec)
            made.append(Shard(self.shards, *cut, digest=digest))
            self.shards += 1
            if len(made) == BATCH_ROWS:
                self._write(shard_rows(made))
                made = []
        if made:
            self._write(shard_rows(made))
        self._write_files()

    def _noted(self, inspected: Iterator[Inspected]) -> Iterator[Inspected]:
        for made in inspected:
            self._fields.add(made)
            self.first = self.first or made.file.url
            self._recent.append(made)
            self._files.append(made.file)
            self.files += 1
            if len(self._files) == BATCH_ROWS:
                self._write_files()
            yield made

    def _write_files(self) -> None:
        if self._files:
            self._write(file_rows(self._files))
            self._files = []


class _Cut(NamedTuple):
    """A shard without its index and digest."""

    file: int
    files: int
    start: int
    stop: int
    rows: int | None
    text_bytes: int


def _cut_files(inspected: Iterable[Inspected]) -> Iterator[_Cut]:
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


def _digest(inspected: Iterable[Inspected], cut: _Cut, spec: CorpusSpec) -> str:
    """The digest of a shard of some files. The path below the corpus root is part of it only where it gives a value."""
    fields = [spec.text_field, spec.id_field, spec.domain_field]
    parts: list[object] = [fields, cut.start, cut.stop]
    for made in inspected:
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
