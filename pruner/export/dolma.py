"""The format `dolma`: attributes for the documents of a Dolma-toolkit corpus, which stay as they are.

Beside `documents/a/b.jsonl.gz` the toolkit looks for `attributes/<name>/a/b.jsonl.gz`, with a line for each line of the
documents, in the same order and with the same `id`. An attribute is a list of spans [start, end, value]; here it is one
span over the whole text, whose end is the number of its UTF-8 bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.files import CorpusFile
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import Plan, check_unchanged
from pruner.errors import InputError
from pruner.export.compression import compressing
from pruner.export.export_file import Waiting, created_file, exported_file
from pruner.export.export_plan import ExportPlan, PlannedFile, PlannedPart, exported_name, score_columns
from pruner.export.formats import ExportedFile
from pruner.export.kept_rows import KeptRows
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable, table_batches

_DOCUMENTS = "documents"  # the folder of the toolkit's documents
_ID = "id"  # the field that the toolkit compares
_BATCH_ROWS = 1 << 13
_KEPT, _PERCENTILE = "winnow_kept", "percentile"


@dataclass(frozen=True)
class ScoredRows:
    """The rows of a corpus file in the tables of a job, which are in plan order."""

    storage: Storage
    scores: str  # path of the table of scores
    manifest: str  # path
    first: int  # row of the table of scores
    rows: int
    kept: PlannedPart


def plan_attributes(
    plan: Plan, id_field: str | None, storage: Storage, scores: str, manifest: str, beat: Callable[[], None]
) -> ExportPlan:
    """Plans attributes for all files of a corpus, each of them one part. Calls `beat` for each piece of the tables.

    Raises InputError for files that are no JSON lines or lie in several folders `documents`, for a corpus without the
    field `id`, and for a manifest without documents.
    """
    if id_field != _ID:
        told = "it has none" if id_field is None else f"it is {id_field!r}"
        raise InputError(
            f"the format `dolma` needs a job whose id_field is {_ID!r}, which the Dolma toolkit compares, but {told}:"
            f" prune with the id field {_ID!r}, or export another format"
        )
    names = _names(plan.files)
    kept = _count_rows(plan, storage, manifest, beat)
    if not kept.any():
        raise InputError("the selection keeps no document: there is nothing to export")
    starts = np.cumsum(kept) - kept
    rows = _count_rows(plan, storage, scores, beat)
    return ExportPlan(
        files=tuple(
            PlannedFile(source=number, path=name, rows=count, parts=1)
            for number, (name, count) in enumerate(zip(names, kept.tolist(), strict=True))
        ),
        parts=tuple(
            PlannedPart(file=number, start=start, rows=count)
            for number, (start, count) in enumerate(zip(starts.tolist(), kept.tolist(), strict=True))
        ),
        score_rows=(0, *np.cumsum(rows).tolist()),
    )


def export_attributes(
    file: CorpusFile,
    rows: ScoredRows,
    storage: Storage,
    path: str,
    *,
    scores: bool,
    roots: Roots = UNRESTRICTED,
    waiting: Waiting = lambda: None,
) -> ExportedFile:
    """Writes the attributes of a corpus file to `path` of a storage, where they appear complete or not at all.

    The codec is that of the corpus file; the same input gives the same bytes. `scores` adds the columns of scores.
    `waiting` as of `export_file`. Raises InputError naming the file if it is not as it was planned, and OSError.
    """
    check_unchanged(file, roots)
    with created_file(storage, path, waiting) as out, compressing(file.compression, cast(BinaryIO, out)) as write:
        for lines in _attributes(file, rows, scores):
            write(lines)
            waiting()
    return exported_file(path, rows.kept.rows, out)


def _names(files: Sequence[CorpusFile]) -> list[str]:
    """The path of each file below its folder `documents`, or below the corpus root where none has such a folder."""
    split: list[tuple[str, str]] = []
    for file in files:
        if file.format != "jsonl":
            raise InputError(
                f"{file.url}: is no file of JSON lines, which the format `dolma` needs; export another format, or"
                " exclude the file"
            )
        *above, name = file.url.split("/")
        depth = max((at for at, part in enumerate(above, 1) if part == _DOCUMENTS), default=0)
        split.append(("/".join(above[:depth]), "/".join([*above[depth:], name]) if depth else file.relative or name))
    for file, (folder, _) in zip(files, split, strict=True):
        if folder != split[0][0]:
            raise InputError(
                f"{files[0].url} and {file.url}: do not lie in one folder `{_DOCUMENTS}`, beside which the Dolma"
                " toolkit looks for attributes; prune such folders one by one"
            )
    return [name for _, name in split]


def _count_rows(plan: Plan, storage: Storage, table: str, beat: Callable[[], None]) -> np.ndarray:
    """How many rows of a table each file of the plan has, int64 [files]."""
    numbers = {file.url: number for number, file in enumerate(plan.files)}
    counts = np.zeros(len(plan.files), np.int64)
    for batch in table_batches(storage, table, ["file"], dictionary=["file"]):
        names = batch["file"].dictionary.to_pylist()
        found = np.bincount(batch["file"].indices.to_numpy(), minlength=len(names))
        for name, count in zip(names, found.tolist(), strict=True):
            counts[numbers[name]] += count
        beat()
    return counts


def _attributes(file: CorpusFile, rows: ScoredRows, scores: bool) -> Iterator[bytes]:
    """The lines of attributes, some thousands at a time."""
    scored = score_columns(rows.storage, rows.scores) if scores else []
    columns = list(dict.fromkeys(["row", "id", "n_bytes", *scored]))
    kept_columns = ["row", *([_PERCENTILE] if scores else [])]
    pieces = StoredTable(rows.storage, rows.manifest).read_rows(rows.kept.start, rows.kept.rows, kept_columns)
    empty = pa.RecordBatch.from_pydict({"row": pa.array([], pa.int64())})  # of a file without a kept row
    kept = KeptRows(lambda _: next(pieces, empty), rows.kept.rows, file.url)
    for piece in StoredTable(rows.storage, rows.scores).read_rows(rows.first, rows.rows, columns):
        for start in range(0, len(piece), _BATCH_ROWS):
            yield _lines(piece.slice(start, _BATCH_ROWS), kept, scored)


def _lines(batch: pa.RecordBatch, kept: KeptRows, scored: list[str]) -> bytes:
    numbers = batch["row"].to_numpy()
    taken = kept.take(int(numbers[-1]) + 1)
    at = np.searchsorted(numbers, taken["row"].to_numpy()).tolist()
    columns: dict[str, list[Any]] = {_KEPT: _placed(at, [1] * len(at), len(batch), 0)}
    if scored:
        columns |= {exported_name(name): batch[name].to_pylist() for name in scored}
        if at:
            percentiles = taken[_PERCENTILE].to_pylist()
            columns[exported_name(_PERCENTILE)] = _placed(at, percentiles, len(batch), None)
    lines: list[bytes] = []
    ends = pc.fill_null(batch["n_bytes"], 0).to_pylist()
    for name, end, *values in zip(batch["id"].to_pylist(), ends, *columns.values(), strict=True):
        spans = {column: [[0, end, value]] for column, value in zip(columns, values, strict=True) if value is not None}
        lines.append(orjson.dumps({_ID: name, "attributes": spans}, option=orjson.OPT_APPEND_NEWLINE))
    return b"".join(lines)


def _placed(at: list[int], values: list[Any], size: int, others: Any) -> list[Any]:
    """`size` values: `values` at the places `at`, and `others` elsewhere."""
    placed = [others] * size
    for index, value in zip(at, values, strict=True):
        placed[index] = value
    return placed
