"""Measures how fast each format becomes Python strings: `python -m tests.bench.reading [MB of text]`.

Megabytes of UTF-8 text per second, on one core, of a file that is not in the page cache, planning included. Beside it
stand `datasets` in streaming mode and datatrove's readers, where these are installed.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus import sandbox, shard_reader
from pruner.corpus.plan import make_plan
from pruner.spec import CorpusSpec

WORDS = Path(__file__).read_text().split()
Texts = Iterator[str]


def rows(size: int) -> list[dict[str, str]]:
    """Documents of some 3,000 characters, `size` bytes of text in all."""
    chance, made, left = random.Random(0), [], size
    while left > 0:
        text = " ".join(chance.choices(WORDS, k=450))
        made.append({"text": text, "id": f"doc-{len(made)}", "url": f"https://example.org/{len(made)}"})
        left -= len(text)
    return made


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue().to_pybytes())


def write_files(folder: Path, size: int) -> list[Path]:
    """The same documents in each format."""
    made = rows(size)
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


def ours(path: Path) -> Texts:
    """The reader in this process."""
    spec = CorpusSpec(paths=[str(path)], id_field="id", domain_field="url")
    plan = make_plan(spec)
    for shard in plan.shards:
        for batch in shard_reader.read_shard(plan.files_of(shard), shard, spec):
            yield from batch["text"].to_pylist()


def sandboxed(path: Path) -> Texts:
    """The reader in its process, as jobs use it; both processes share the core."""
    spec = CorpusSpec(paths=[str(path)], id_field="id", domain_field="url")
    plan = sandbox.make_plan(spec)
    for shard in plan.shards:
        for batch in sandbox.read_shard(plan, shard, spec):
            yield from batch["text"].to_pylist()


def with_datasets(path: Path) -> Texts:
    from datasets import load_dataset  # type: ignore[import-not-found,unused-ignore]

    builder = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}.get(path.suffix, "json")
    for row in load_dataset(builder, data_files=str(path), split="train", streaming=True):
        yield row["text"]


def with_datatrove(path: Path) -> Texts:
    from datatrove.pipeline import readers  # type: ignore[import-not-found,unused-ignore]

    kinds = {".parquet": readers.ParquetReader, ".arrow": readers.IpcReader, ".csv": readers.CsvReader}
    reader = kinds.get(path.suffix, readers.JsonlReader)(str(path.parent), glob_pattern=path.name)
    for document in reader():
        yield document.text


READERS: dict[str, tuple[str, Callable[[Path], Texts]]] = {
    "winnow": ("pruner", ours),
    "winnow, sandbox": ("pruner", sandboxed),
    "datasets": ("datasets", with_datasets),
    "datatrove": ("datatrove", with_datatrove),
}


def forget(path: Path) -> None:
    """Drops a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    size = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 100_000_000
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    readers = {name: read for name, (package, read) in READERS.items() if find_spec(package) is not None}
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"{'MB of text per second':24}{''.join(f'{name:>18}' for name in readers)}\n")
        paths = write_files(Path(folder), size)
        list(sandboxed(paths[0]))  # starts the reader process
        for path in paths:
            speeds = []
            for read in readers.values():
                forget(path)
                started = time.perf_counter()
                read_bytes = sum(len(text) for text in read(path))
                speeds.append(read_bytes / 1e6 / (time.perf_counter() - started))
            sys.stdout.write(f"{path.name:24}{''.join(f'{speed:18.0f}' for speed in speeds)}\n")


if __name__ == "__main__":
    main()
