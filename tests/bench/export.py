"""Measures exports that keep every other document: `python -m tests.bench.export [MB of text]`.

Megabytes of text of the corpus file per second, beside a plain loop in one process that does the same with the same
libraries, and with two processes on two cores beside one process on one core. Targets: 0.7 of the speed of the loop for
Parquet, 0.8 for JSON lines in zstd, at most 300 MiB of memory in the reader process, and 1.7 times the speed with two
processes.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus import sandbox
from pruner.corpus.plan import make_plan
from pruner.export import export_file as exports
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage
from tests.bench.reading import rows

PIECE = 10_000_000  # bytes of text that are made, and repeated with other ids
GROUP_ROWS = 10_000
ROUNDS = 5
Loop = Callable[[Path, Path], None]


def documents(size: int) -> Iterator[list[dict[str, str]]]:
    """`size` bytes of text in pieces of GROUP_ROWS documents."""
    made, number, left, piece = rows(PIECE), 0, size, list[dict[str, str]]()
    while left > 0:
        row = made[number % len(made)]
        piece.append(row | {"id": f"doc-{number}"})
        number, left = number + 1, left - len(row["text"])
        if len(piece) == GROUP_ROWS or left <= 0:
            yield piece
            piece = []


def write_files(folder: Path, size: int) -> dict[str, Loop]:
    """The same documents in each format, and the plain loop for it."""
    schema = pa.schema([(name, pa.string()) for name in ("text", "id", "domain")])
    with (
        pq.ParquetWriter(folder / "zstd.parquet", schema, compression="zstd") as zstd,
        pq.ParquetWriter(folder / "snappy.parquet", schema, compression="snappy") as snappy,
        pa.CompressedOutputStream(str(folder / "a.jsonl.zst"), "zstd") as lines,
    ):
        for piece in documents(size):
            table = pa.Table.from_pylist(piece, schema)
            zstd.write_table(table)
            snappy.write_table(table)
            lines.write("".join(json.dumps(row) + "\n" for row in piece).encode())
    return {"zstd.parquet": plain_parquet, "snappy.parquet": plain_parquet, "a.jsonl.zst": plain_lines}


def plain_parquet(source: Path, target: Path) -> None:
    parquet = pq.ParquetFile(source)
    codec = parquet.metadata.row_group(0).column(0).compression
    with pq.ParquetWriter(target, parquet.schema_arrow, compression=codec) as writer:
        row = 0
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            writer.write_table(table.filter(pa.array(np.arange(row, row + len(table)) % 2 == 0)))
            row += len(table)


def plain_lines(source: Path, target: Path) -> None:
    with pa.CompressedInputStream(str(source), "zstd") as lines, pa.CompressedOutputStream(str(target), "zstd") as out:
        number, rest, kept = 0, b"", list[bytes]()
        while data := lines.read(1 << 20):
            *found, rest = (rest + data).split(b"\n")
            kept = [line + b"\n" for row, line in enumerate(found, number) if row % 2 == 0]
            number += len(found)
            out.write(b"".join(kept))


def exported(rows: int, source: Path, target: Path) -> None:
    (file,) = make_plan(CorpusSpec(paths=[str(source)])).files
    kept = pa.table({"row": np.arange(0, rows, 2)})
    exports.export_file(file, kept, "same", Storage(str(target.parent)), target.name, "text")


def reader_memory() -> int:
    """MiB that the reader process had at its peak."""
    (reader,) = sandbox._idle[exports._PROGRAM]
    status = Path(f"/proc/{reader.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def export_on(core: int, export: Loop, source: Path, targets: list[Path], together: Barrier) -> None:
    os.sched_setaffinity(0, {core})  # of the reader process too, which inherits it
    export(source, targets[0])  # starts the reader process
    together.wait()
    for target in targets:
        export(source, target)
    together.wait()
    sandbox.close_idle()


def export_twice(export: Loop, source: Path, folder: Path, processes: int) -> float:
    """Seconds of two exports, by one process or by two."""
    targets = [folder / f"core-{number}-{source.name}" for number in (0, 1)]
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(processes + 1)
    cores = sorted(os.sched_getaffinity(0))[:processes]
    work = zip(cores, [targets] if processes == 1 else [targets[:1], targets[1:]], strict=True)
    running = [spawn.Process(target=export_on, args=(core, export, source, out, together)) for core, out in work]
    for process in running:
        process.start()
    together.wait()
    started = time.perf_counter()
    together.wait()
    taken = time.perf_counter() - started
    for process in running:
        process.join()
    return taken


def seconds(work: Loop, source: Path, target: Path) -> float:
    source.read_bytes()  # into the page cache
    os.sync()
    started = time.perf_counter()
    work(source, target)
    return time.perf_counter() - started


def main() -> None:
    size = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 200_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain = write_files(folder, size)
        export = partial(exported, pq.read_metadata(folder / "zstd.parquet").num_rows)
        names = f"{'MB of text per second':24}{'export':>10}{'plain':>10}{'ratio':>10}{'reader MiB':>12}"
        sys.stdout.write(f"{names}{'two processes':>15}\n")
        for source, loop in plain.items():
            sandbox.close_idle()
            times: list[list[float]] = [[], []]
            for _ in range(ROUNDS):  # in turn, as other processes may slow some of them
                for work, taken in zip((export, loop), times, strict=True):
                    taken.append(seconds(work, folder / source, folder / f"out-{source}"))
            speeds = [size / 1e6 / min(taken) for taken in times]
            cells = f"{speeds[0]:10.0f}{speeds[1]:10.0f}{speeds[0] / speeds[1]:10.2f}{reader_memory():12}"
            one, two = (min(export_twice(export, folder / source, folder, n) for _ in range(ROUNDS)) for n in (1, 2))
            cells += f"{one / two:15.2f}"
            sys.stdout.write(f"{source:24}{cells}\n")


if __name__ == "__main__":
    main()
