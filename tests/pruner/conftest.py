"""Corpora of every format, and an S3 server that speaks the real protocol."""

import gzip
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
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


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of this test's own; s3fs finds the server as users' own settings would have it, by the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}"
