"""Measures how fast each format becomes Python strings: `python -m tests.bench.reading [MB of text [CORPUS]]`.

The documents are random words, or the texts of a corpus, which has the fields `text`, `id` and `domain`, repeated if it
is smaller. Each file has the same documents and is dropped from the page cache before it is read. Beside Winnow's
reader in its process, which jobs use, stand the same reader in this process, and `datasets` in streaming mode and
datatrove's readers where these are installed. Each reads a format in a new process, so that none meets the memory and
the objects of another; Winnow's has the settings of malloc that its workers have. They run in turn on one core,
planning included. All make strings of the same columns: the domains are URLs, but their field is not named `url`, whose
hosts only Winnow would take. Fails if they do not read the same text.
"""

import bz2
import csv
import gc
import gzip
import io
import json
import lzma
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus import sandbox, shard_reader
from pruner.corpus.plan import make_plan
from pruner.spec import CorpusSpec
from scorer.process import tune_process

WORDS = Path(__file__).read_text().split()
Texts = Iterator[str]


def random_texts() -> Texts:
    """Texts of some 3,000 characters."""
    chance = random.Random(0)
    while True:
        yield " ".join(chance.choices(WORDS, k=450))


def rows(size: int, corpus: str | None) -> list[dict[str, str]]:
    """Documents of `size` characters in all: of a corpus, or of random words."""
    texts = random_texts() if corpus is None else cycle(in_this_process(Path(corpus)))
    made: list[dict[str, str]] = []
    left = size
    while left > 0:
        text = next(texts)
        made.append({"text": text, "id": f"doc-{len(made)}", "domain": f"https://example.org/{len(made)}"})
        left -= len(text)
    return made


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue().to_pybytes())


def write_files(folder: Path, made: list[dict[str, str]]) -> list[Path]:
    """The same documents in each format."""
    table = pa.Table.from_pylist(made)
    lines = "".join(json.dumps(row) + "\n" for row in made).encode()
    cells = io.StringIO(newline="")
    writer = csv.DictWriter(cells, list(made[0]))
    writer.writeheader()
    writer.writerows(made)
    pq.write_table(table, folder / "a.parquet", row_group_size=10_000, compression="zstd")
    with pa.ipc.new_stream(folder / "a.arrow", table.schema) as out:
        out.write_table(table, max_chunksize=1000)
    contents = {
        "a.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines, 6),
        "a.jsonl.zst": zstd(lines),
        "a.jsonl.bz2": bz2.compress(lines),
        "a.jsonl.xz": lzma.compress(lines, preset=3),
        "a.csv": cells.getvalue().encode(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return sorted(folder.iterdir())


def in_this_process(path: Path) -> Texts:
    spec = CorpusSpec(paths=[str(path)], id_field="id", domain_field="domain")
    plan = make_plan(spec)
    for shard in plan.shards:
        for batch in shard_reader.read_shard(plan.files_of(shard), shard, spec):
            yield from batch["text"].drop_null().to_pylist()


def sandboxed(path: Path) -> Texts:
    spec = CorpusSpec(paths=[str(path)], id_field="id", domain_field="domain")
    plan = sandbox.make_plan(spec)
    for shard in plan.shards:
        for batch in sandbox.read_shard(plan, shard, spec):
            yield from batch["text"].drop_null().to_pylist()


def with_datasets(path: Path) -> Texts:
    from datasets import load_dataset  # type: ignore[import-not-found,unused-ignore]

    builder = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}.get(path.suffix, "json")
    for row in load_dataset(builder, data_files=str(path), split="train", streaming=True):
        yield row["text"]


def with_datatrove(path: Path) -> Texts:
    from datatrove.pipeline import readers  # type: ignore[import-not-found,unused-ignore]
    from datatrove.utils.logging import logger  # type: ignore[import-not-found,unused-ignore]

    logger.disable("datatrove")
    place: dict[str, Any] = {"data_folder": str(path.parent), "glob_pattern": path.name}
    reader: Any
    if path.suffix == ".parquet":
        reader = readers.ParquetReader(**place)
    elif path.suffix == ".arrow":
        reader = readers.IpcReader(**place, stream=True)
    elif path.suffix == ".csv":
        csv.field_size_limit(1 << 30)  # which it leaves at 128 KiB
        reader = readers.CSVReader(**place)
    else:
        reader = readers.JsonlReader(**place)
    for document in reader():
        yield document.text


OURS = "winnow"
PEERS = ("datasets", "datatrove")
READERS: dict[str, Callable[[Path], Texts]] = {
    OURS: sandboxed,
    "without sandbox": in_this_process,
    "datasets": with_datasets,
    "datatrove": with_datatrove,
}
REPETITIONS = 5


def forget(path: Path) -> None:
    """Drops a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cpu_seconds() -> float:
    """CPU time of this process and of its children, which the reader process is one of."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    clocks = [~int(pid) << 3 | 2 for pid in children]  # as clock_getcpuclockid(3) names them
    return time.process_time() + sum(map(time.clock_gettime, clocks))


class Reading(NamedTuple):
    """What was read, and how long it took in seconds."""

    documents: int
    characters: int
    cpu: float
    wall: float


def measure(read: Callable[[Path], Texts], path: Path) -> Reading:
    forget(path)
    gc.collect()
    cpu, wall = cpu_seconds(), time.perf_counter()
    documents = characters = 0
    for text in read(path):
        documents += 1
        characters += len(text)
    return Reading(documents, characters, cpu_seconds() - cpu, time.perf_counter() - wall)


def measure_in_turn(readers: Iterable[str], small: Path, large: Path) -> dict[str, list[Reading]]:
    """Readings of `large`, each reader in its own process, which `small` has warmed up."""
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        processes = {
            name: stack.enter_context(ProcessPoolExecutor(1, spawn, None if name in PEERS else tune_process))
            for name in readers
        }
        taken: dict[str, list[Reading]] = {name: [] for name in processes}
        for path in (small, *[large] * REPETITIONS):
            for name, process in processes.items():
                taken[name].append(process.submit(measure, READERS[name], path).result())
    return {name: readings[1:] for name, readings in taken.items()}


def line(title: str, cells: Iterable[str]) -> None:
    sys.stdout.write(f"{title:16}{''.join(f'{cell:>18}' for cell in cells)}\n")
    sys.stdout.flush()


def main() -> None:
    size = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 100_000_000
    corpus = sys.argv[2] if len(sys.argv) > 2 else None
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    readers = [name for name in READERS if name not in PEERS or find_spec(name) is not None]
    with tempfile.TemporaryDirectory() as small_folder, tempfile.TemporaryDirectory() as large_folder:
        small = write_files(Path(small_folder), rows(100_000, corpus))
        made = rows(size, corpus)
        documents, characters = len(made), sum(len(row["text"]) for row in made)
        large = write_files(Path(large_folder), made)
        del made
        sys.stdout.write(
            f"MB of text per second of CPU time of all processes (in brackets: of wall time on one core).\n"
            f"{documents:,} documents, {characters / 1e6:.0f} MB of text; best of {REPETITIONS}.\n"
        )
        line("", [*readers, "winnow / best"])
        for paths in zip(small, large, strict=True):
            cpu: dict[str, float] = {}
            cells: list[str] = []
            for name, readings in measure_in_turn(readers, *paths).items():
                read = {(reading.documents, reading.characters) for reading in readings}
                if read != {(documents, characters)}:
                    sys.exit(f"{paths[1].name}: {name} reads these documents and characters: {read}")
                cpu[name] = characters / 1e6 / min(reading.cpu for reading in readings)
                wall = characters / 1e6 / min(reading.wall for reading in readings)
                cells.append(f"{cpu[name]:.0f} ({wall:.0f})")
            peers = [cpu[name] for name in readers if name in PEERS]
            line(paths[1].name, [*cells, f"{cpu[OURS] / max(peers):.2f}" if peers else "-"])


if __name__ == "__main__":
    main()
