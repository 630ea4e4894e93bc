"""The plan of an export: the files that have kept documents, and the parts that are exported one by one."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from pruner.corpus.plan import Plan
from pruner.errors import InputError
from pruner.export.formats import RowFormat, may_be_cut, output_names
from pruner.export.protocol import ROW, WHOLE, LineRange
from pruner.select.score_table import further_columns
from pruner.tables.records import Record
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable, table_batches

# Columns of a manifest that an export may add to the documents, beside those of further scorers.
SCORE_COLUMNS = ("nll", "n_tokens", "n_bytes", "percentile")


class PlannedFile(BaseModel):
    """A file of an export."""

    source: int  # index into the files of the corpus' plan
    path: str  # below the root of the export
    rows: int
    parts: int


class PlannedPart(BaseModel):
    """A part of a file: all its kept rows, or those of one shard of JSON lines."""

    file: int  # index into the files of the export's plan
    start: int  # first row of the manifest
    rows: int
    lines: LineRange = WHOLE


class ExportPlan(Record):
    """The files of an export in plan order, and their parts in the same order."""

    files: tuple[PlannedFile, ...]
    parts: tuple[PlannedPart, ...]
    score_rows: tuple[int, ...] = ()  # of the format `dolma`: rows of the table of scores before each file, and in all

    @property
    def rows(self) -> int:
        """The number of kept documents."""
        return sum(file.rows for file in self.files)

    @property
    def cut(self) -> tuple[int, ...]:
        """The indices of files that have several parts."""
        return tuple(index for index, file in enumerate(self.files) if file.parts > 1)


def plan_export(
    plan: Plan,
    shard_rows: np.ndarray,
    storage: Storage,
    manifest: str,
    target: RowFormat,
    beat: Callable[[], None],
) -> ExportPlan:
    """Plans the export of a manifest, which is in plan order. Calls `beat` for each piece of it.

    shard_rows int64 [shards + 1]: the documents of the corpus before each shard. Raises InputError for two files that
    would get one name, and for a manifest without documents.
    """
    counter = _Counter(plan, shard_rows, target)
    for batch in table_batches(storage, manifest, ["file", "row"], dictionary=["file"]):
        counter.add(batch)
        beat()
    kept = sorted(counter.counts)
    if not kept:
        raise InputError("the selection keeps no document: there is nothing to export")
    names = output_names([file for number, file in enumerate(plan.files) if number in counter.counts], target)
    files: list[PlannedFile] = []
    parts: list[PlannedPart] = []
    start = 0
    for number, name in zip(kept, names, strict=True):
        ranges, counts = counter.ranges(number), counter.counts[number]
        before = len(parts)
        for lines, rows in zip(ranges, counts.tolist(), strict=True):
            if rows:
                parts.append(PlannedPart(file=len(files), start=start, rows=rows, lines=lines))
                start += rows
        files.append(PlannedFile(source=number, path=name, rows=int(counts.sum()), parts=len(parts) - before))
    return ExportPlan(files=tuple(files), parts=tuple(parts))


def read_kept(storage: Storage, manifest: str, part: PlannedPart, *, scores: bool) -> pa.Table:
    """The kept rows of a part as `export_file` takes them: `row`, and with `scores` the columns to add."""
    columns = score_columns(storage, manifest) if scores else []
    rows = StoredTable(storage, manifest).read_rows(part.start, part.rows, ["row", *columns])
    return pa.Table.from_batches(list(rows)).rename_columns([ROW, *map(exported_name, columns)])


def score_columns(storage: Storage, path: str) -> list[str]:
    """The columns of a manifest, or of a table of scores, that an export may add to the documents."""
    schema = StoredTable(storage, path).schema
    return [name for name in SCORE_COLUMNS if name in schema.names] + [f.name for f in further_columns(schema)]


def exported_name(column: str) -> str:
    """The name of a column of scores in an export."""
    return f"winnow_{column}"


class _Counter:
    """Counts the kept rows of each file, by shard where its shards are exported one by one."""

    def __init__(self, plan: Plan, shard_rows: np.ndarray, target: RowFormat) -> None:
        self._numbers = {file.url: number for number, file in enumerate(plan.files)}
        self._lines: dict[int, list[LineRange]] = defaultdict(list)
        self._bounds: dict[int, list[int]] = defaultdict(list)
        for shard in plan.shards:
            if shard.files == 1 and may_be_cut(plan.files[shard.file], target):
                first = int(shard_rows[shard.index])
                bounds = self._bounds[shard.file]
                bounds.append(first - int(shard_rows[shard.index - len(bounds)]))
                self._lines[shard.file].append(LineRange(shard.start, shard.stop, bounds[-1]))
        self.counts: dict[int, np.ndarray] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        """Adds the next rows of the manifest."""
        names, codes = rows["file"].dictionary.to_pylist(), rows["file"].indices.to_numpy()
        row = rows["row"].to_numpy()
        starts = np.flatnonzero(np.diff(codes, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
            number = self._numbers[names[codes[start]]]
            bounds = self._bounds.get(number, [0])
            counts = np.diff([*np.searchsorted(row[start:stop], bounds), stop - start])
            self.counts[number] = self.counts.get(number, 0) + counts

    def ranges(self, number: int) -> list[LineRange]:
        """The ranges of a file that are counted apart."""
        ranges = self._lines.get(number, [])
        return ranges if len(ranges) > 1 else [WHOLE]
