"""Any scored document can be found again by its rank, with the text that was scored."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruner.corpus import plan as plans
from pruner.corpus.plan import Plan, make_plan
from pruner.corpus.shard_reader import read_shard
from pruner.select.documents import documents_at, read_text
from pruner.select.rank_index import Ranks, read_ranks
from pruner.spec import CorpusSpec
from pruner.tables.job_results import write_results
from pruner.tables.shard_scores import ShardScoresWriter
from pruner.tables.storage import Storage
from tests.pruner.conftest import jsonl, parquet, zstd


class Job:
    """A corpus of several files and shards; a document's score is told by its text."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder / "workspace"))
        rows = [{"text": f"{i * 37 % 101} is the number", "id": f"id{i}"} for i in range(100)]
        corpus = folder / "corpus"
        corpus.mkdir()
        (corpus / "1.parquet").write_bytes(parquet(rows[:40], 7))
        (corpus / "2.jsonl").write_bytes(b"broken\n" + jsonl(rows[40:80]))
        (corpus / "3.jsonl.zst").write_bytes(zstd(jsonl(rows[80:])))
        self.spec = CorpusSpec(paths=[str(corpus)], id_field="id")
        self.plan: Plan = make_plan(self.spec)
        paths = [f"scores/{shard.index}" for shard in self.plan.shards]
        for shard, path in zip(self.plan.shards, paths, strict=True):
            with ShardScoresWriter(self.storage, path, {}) as writer:
                for block in read_shard(self.plan, shard, self.spec):
                    nll = [1.0 + int((text or "0").split()[0]) for text in block.texts]
                    writer.append(block, np.full(block.rows, 2), np.array(nll))
        write_results(self.storage, "job", self.plan, paths, None)
        self.ranks: Ranks = read_ranks(self.storage, "job")

    def at(self, start: int, stop: int) -> list[dict[str, Any]]:
        found, size = documents_at(self.storage, "job/scores.parquet", self.ranks, start, stop)
        assert size == 100
        return found

    def text(self, place: int, seconds: float = 60) -> tuple[str | None, str | None]:
        return read_text(self.plan, self.spec, self.ranks, place, seconds)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(plans, "SHARD_BYTES", 300)
    monkeypatch.setattr(plans, "SHARD_BYTES_MAX", 600)
    made = Job(tmp_path)
    assert len(made.plan.shards) > 6
    return made


def test_each_rank_has_its_document_and_its_text(job: Job) -> None:
    found = job.at(0, 1000)
    assert [row["rank"] for row in found] == list(range(100))
    for row in found:
        text, error = job.text(row["place"])
        assert error is None
        assert text is not None
        assert row["nll"] == 1.0 + int(text.split()[0])
        assert row["id"] == f"id{(int(text.split()[0]) * 71) % 101}"  # 71 · 37 = 1 (mod 101)
    assert [row["nll"] for row in found] == sorted(row["nll"] for row in found)
    assert job.at(97, 102) == found[97:]
    assert job.at(-3, 2) == found[:2]


def test_a_text_that_is_gone_or_too_far_is_said_to_be(job: Job) -> None:
    last = max(job.at(0, 100), key=lambda row: row["place"])
    Path(last["file"]).write_bytes(b"other")
    assert "changed" in (job.text(last["place"])[1] or "")
    Path(last["file"]).unlink()
    text, error = job.text(last["place"])
    assert text is None
    assert "cannot be read" in (error or "")


def test_a_search_for_a_text_ends(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruner.corpus.sandbox._TICK_SECONDS", 0.0)
    last = max(job.at(0, 100), key=lambda row: row["place"])
    assert "too deep" in (job.text(last["place"], seconds=0)[1] or "")
