"""Corpora in every format, and how tests look at record batches."""

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Rows = list[dict[str, Any]]


def jsonl(rows: Rows) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(data)
    return bytes(sink.getvalue().to_pybytes())


def parquet(rows: Rows, row_group_size: int = 1000) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=row_group_size)
    return bytes(sink.getvalue().to_pybytes())


def column(batches: Iterable[pa.RecordBatch], name: str) -> list[Any]:
    """A column of all batches."""
    return [value for batch in batches for value in batch[name].to_pylist()]


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "rows.parquet": lambda rows: parquet(rows, 7),
    "rows.jsonl": jsonl,
    "rows.jsonl.gz": lambda rows: gzip.compress(jsonl(rows)),
    "rows.jsonl.zst": lambda rows: zstd(jsonl(rows)),
}


@pytest.fixture
def rows() -> Rows:
    texts = ["plain", "über—日本", "line\nbreak", "nul \x00 inside", " ", '"quoted"', "<|endoftext|>", "x" * 3000]
    return [
        {"text": f"{text} {i}" if text != " " else " ", "id": f"id-{i}", "domain": "ab"[i % 2]}
        for i, text in enumerate(texts * 6)
    ]


@pytest.fixture(params=sorted(FORMATS))
def corpus_file(request: pytest.FixtureRequest, tmp_path: Path, rows: Rows) -> Path:
    """The rows in each format."""
    path = tmp_path / request.param
    path.write_bytes(FORMATS[request.param](rows))
    return path
