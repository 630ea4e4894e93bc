"""Corpora in every format, and how tests look at record batches."""

import gzip
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus import plan as plans
from pruner.tables import table_writer
from pruner.tables.storage import Storage
from tests.pruner.scored import SPLIT, ScoredCorpus, corpus_spec

Rows = list[dict[str, Any]]


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 without credentials, wherever they are looked for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.filesystem("s3").clear_instance_cache()


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


@pytest.fixture(scope="session")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files that take long to make."""
    return tmp_path_factory.mktemp("bombs")


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoredCorpus:
    """A scored corpus of two files in several shards, with ties and rejects."""
    monkeypatch.setattr(plans, "SHARD_BYTES", 400)
    monkeypatch.setattr(plans, "SHARD_BYTES_MAX", 800)
    monkeypatch.setattr(table_writer, "GROUP_ROWS", 16)
    return scored_corpus(tmp_path)


@pytest.fixture(scope="module")
def many_indexed(tmp_path_factory: pytest.TempPathFactory) -> ScoredCorpus:
    """The same corpus with its index, in larger shards."""
    made = scored_corpus(tmp_path_factory.mktemp("scored"))
    made.index(split=SPLIT)
    return made


def scored_corpus(folder: Path) -> ScoredCorpus:
    corpus = folder / "corpus"
    corpus.mkdir()
    rows = [{"text": f"{'w' * (i % 9)}", "id": f"é{i}", "domain": ["a", "b", None][i % 3]} for i in range(150)]
    (corpus / "1.parquet").write_bytes(parquet(rows[:70], 9))
    (corpus / "2.jsonl").write_bytes(jsonl(rows[70:]) + b"broken\n")

    def score(text: str) -> tuple[int, float]:
        return len(text), math.nan if len(text) == 7 else len(text) * (len(text) % 4 + 0.5)

    spec = corpus_spec(corpus, id_field="id", domain_field="domain")
    return ScoredCorpus(Storage(str(folder / "workspace")), spec, score, lambda shard: {"context": 5 + shard % 2})
