"""`make scale-select`: selections over score tables of millions of documents, beside NumPy, Polars and DuckDB.

Every program reads the same tables and runs in a process of its own. Polars and DuckDB write the same manifest; NumPy
only reads and sorts. `python -m tests.scale.select_tables 1e9 --alone` measures Winnow alone on 10^9 documents.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_FILES = 4
_GROUP_ROWS = 1 << 19

NUMPY = """
import sys, numpy as np, pyarrow.parquet as pq
tables = [pq.read_table(path, columns=["nll", "n_tokens"]) for path in sys.argv[2:]]
key = np.concatenate([table["nll"].to_numpy() / table["n_tokens"].to_numpy() for table in tables])
np.argsort(key, kind="stable")
"""
POLARS = """
import sys, polars as pl
rows = pl.scan_parquet(sys.argv[2:]).collect()
count = len(rows)
keep = (count + 1) // 2
first = (count - keep) // 2
rank = (pl.col("nll") / pl.col("n_tokens")).rank("ordinal") - 1
ranked = rows.with_columns((100.0 * rank / count).alias("percentile"), rank.alias("rank"))
ranked.filter(pl.col("rank").is_between(first, first + keep - 1)).drop("rank").write_parquet(sys.argv[1])
"""
DUCKDB = """
import sys, duckdb
duckdb.sql("SET preserve_insertion_order = true")
count = duckdb.sql(f"SELECT count(*) FROM read_parquet({sys.argv[2:]})").fetchall()[0][0]
keep = (count + 1) // 2
first = (count - keep) // 2
duckdb.sql(f'''COPY (
    SELECT row, n_tokens, nll, 100.0 * rank / {count} AS percentile FROM (
        SELECT *, file_index, file_row_number,
            row_number() OVER (ORDER BY nll / n_tokens, file_index, file_row_number) - 1 AS rank
        FROM read_parquet({sys.argv[2:]})
    ) WHERE rank >= {first} AND rank < {first + keep} ORDER BY file_index, file_row_number
) TO '{sys.argv[1]}' (FORMAT parquet, COMPRESSION zstd)''')
"""


class Measured(NamedTuple):
    """What a program took: seconds of the wall clock and of the processors, and bytes of memory at most."""

    name: str
    seconds: float
    cpu: float
    memory: float


def make_tables(folder: Path, documents: int) -> list[str]:
    """Synthetic score tables of `row`, `n_tokens` and `nll`: about 11 bytes a document."""
    rng, paths = np.random.default_rng(0), []
    for number in range(_FILES):
        path = folder / f"{number}.parquet"
        paths.append(str(path))
        left = documents * (number + 1) // _FILES - documents * number // _FILES
        schema = pa.schema([("row", pa.int64()), ("n_tokens", pa.int32()), ("nll", pa.float64())])
        with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
            for first in range(0, left, _GROUP_ROWS):
                size = min(_GROUP_ROWS, left - first)
                n_tokens = np.maximum(1, rng.lognormal(6, 1, size)).astype(np.int32)
                nll = rng.normal(3, 0.5, size).round(6) * n_tokens
                writer.write_table(pa.table([np.arange(first, first + size), n_tokens, nll], schema=schema))
    return paths


def measured(name: str, command: list[str]) -> Measured:
    """Runs a program. Raises CalledProcessError if it fails."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.monotonic() - started
    return Measured(name, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def main() -> int:
    """Prints a table; returns 1 if Winnow is slower than another program, or needs over 1 GiB (2 GiB above 10^8)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("documents", nargs="?", type=float, default=50e6)
    parser.add_argument("--alone", action="store_true", help="measure Winnow alone")
    parser.add_argument("--folder", type=Path, help="where the tables and manifests are made and removed")
    args = parser.parse_args()
    documents = int(args.documents)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        paths = make_tables(folder, documents)
        python = sys.executable
        winnow = [python, "-m", "service.commands.cli", "select", *paths, "--rate", "0.5", "--out", f"{folder}/out"]
        others = {"NumPy, read and sort alone": NUMPY, "Polars": POLARS, "DuckDB": DUCKDB}
        found = [measured("winnow select", winnow)]
        for title, program in () if args.alone else others.items():
            found.append(measured(title, [python, "-c", program, f"{folder}/out-{len(found)}.parquet", *paths]))
    sys.stdout.write(f"{documents:,} documents, medium 0.5, manifest written\n\n| | s | CPU s | MB |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: |\n")
    for one in found:
        sys.stdout.write(f"| {one.name} | {one.seconds:,.1f} | {one.cpu:,.1f} | {one.memory / 1e6:,.0f} |\n")
    mine, memory = found[0], (1 << 30) * (1 if documents <= 10**8 else 2)
    slow = any(mine.seconds > one.seconds * (1.5 if one.name.startswith("NumPy") else 1) for one in found[1:])
    return int(slow or mine.memory > memory)


if __name__ == "__main__":
    sys.exit(main())
