"""Writes manifests of score tables: their rows that selections keep, with percentiles, part by part."""

import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa

from pruner.score_tables.tables import PERCENTILE
from pruner.tables import table_files
from pruner.tables.hashing_writer import HashingWriter, WrittenFile
from pruner.tables.join_parquet import ParquetJoiner
from pruner.tables.table_writer import TableWriter


def manifest_schema(columns: pa.Schema, provenance: dict[str, Any]) -> pa.Schema:
    """The schema of a manifest; `provenance` is stored as JSON under the metadata key `winnow`."""
    metadata = {"winnow": orjson.dumps(provenance, option=orjson.OPT_SORT_KEYS)}
    return columns.append(pa.field(PERCENTILE, pa.float64())).with_metadata(metadata)


class _File:
    """A Parquet file that is joined from parts."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # until it is closed: no other run takes it for that of a killed one
        self._out = HashingWriter(self._file)
        self._joiner = ParquetJoiner(self._out)
        self.rows = 0

    def add(self, part: BinaryIO) -> None:
        self.rows += self._joiner.add(part)

    def complete(self) -> WrittenFile:
        self._joiner.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._out.written

    def close(self) -> None:
        self._file.close()


class ManifestFile:
    """A manifest as one file, or as a folder of parts; it appears when it is complete."""

    def __init__(self, path: Path, *, folder: bool) -> None:
        self._path, self._folder = path, folder
        self._beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        self._file: _File | None = None
        self._files = 0
        _sweep(path)
        if folder:
            self._beside.mkdir()

    def add(self, part: BinaryIO) -> None:
        """Adds the rows of a part; a part without rows too, for its schema."""
        if self._file is None:
            beside = self._beside
            self._file = _File(beside / table_files.part_name(self._files) if self._folder else beside)
            self._files += 1
        self._file.add(part)
        if self._folder and self._file.rows >= table_files.PART_FILE_ROWS:
            self._file.complete()
            self._file = None

    def commit(self) -> None:
        """Makes the manifest appear, in place of one that is there."""
        if self._file is not None:
            self._file.complete()
        if self._path.is_dir():
            shutil.rmtree(self._path)
        elif self._folder:
            self._path.unlink(missing_ok=True)
        self._beside.replace(self._path)

    def discard(self) -> None:
        """Removes what was written, unless it has appeared."""
        if self._file is not None:
            self._file.close()
        if self._beside.is_dir():
            shutil.rmtree(self._beside)
        else:
            self._beside.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Removes what killed runs have left beside a manifest."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        files = list(left.iterdir()) if left.is_dir() else [left]
        if any(_is_locked(file) for file in files):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_locked(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_kept(batches: Iterator[pa.Table], writers: list[TableWriter], percentiles: list[np.ndarray]) -> None:
    """Writes the rows of a part that selections keep: a writer of each, and its percentiles of all rows of the part.

    A row without a percentile is not kept.
    """
    first = 0
    for batch in batches:
        for writer, percentile in zip(writers, percentiles, strict=True):
            some = percentile[first : first + len(batch)]
            kept = ~np.isnan(some)
            if kept.any():
                rows = batch.filter(pa.array(kept))
                writer.add(rows.append_column(PERCENTILE, pa.array(some[kept])))
        first += len(batch)
