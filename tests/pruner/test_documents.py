"""Every scored document is found by its rank, with the text that was scored."""

from pathlib import Path

import pytest

from pruner.corpus import plan as plans
from pruner.select.documents import RankedDocument, documents_at, read_text
from pruner.select.index import Index
from pruner.select.index_files import read_index
from pruner.tables.storage import Storage
from tests.pruner.conftest import jsonl, parquet, zstd
from tests.pruner.scored import ScoredCorpus, corpus_spec


class Job:
    """A corpus of several files and shards; a document's score is the number in its text."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder / "workspace"))
        rows = [{"text": f"{i * 37 % 101} is the number", "id": f"id{i}", "domain": "ab"[i % 2]} for i in range(100)]
        corpus = folder / "corpus"
        corpus.mkdir()
        (corpus / "1.parquet").write_bytes(parquet(rows[:40], 7))
        (corpus / "2.jsonl").write_bytes(b"broken\n" + jsonl(rows[40:80]))
        (corpus / "3.jsonl.zst").write_bytes(zstd(jsonl(rows[80:])))
        self.spec = corpus_spec(corpus, id_field="id", domain_field="domain")
        scored = ScoredCorpus(self.storage, self.spec, lambda text: (2, 1.0 + int(text.split()[0])))
        self.plan = scored.plan
        scored.index()
        self.index: Index = read_index(self.storage, "job")

    def at(self, start: int, stop: int, domain: int | None = None) -> list[RankedDocument]:
        found, size = documents_at(self.storage, "job/scores.parquet", self.index, start, stop, domain)
        assert size == (100 if domain is None else 50)
        return found

    def text(self, place: int, seconds: float = 60) -> tuple[str | None, str | None]:
        return read_text(self.plan, self.spec, self.index, place, seconds)


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


def test_ranks_inside_a_domain(job: Job) -> None:
    for row, domain in enumerate("ab"):
        found = job.at(0, 1000, domain=row)
        assert [document["nll"] for document in found] == [
            document["nll"] for document in job.at(0, 100) if document["domain"] == domain
        ]
        assert [document["percentile"] for document in found] == [2.0 * rank for rank in range(50)]
        assert job.at(48, 60, domain=row) == found[48:]


def test_a_text_that_cannot_be_read_has_a_reason(job: Job) -> None:
    last = max(job.at(0, 100), key=lambda row: row["place"])
    Path(last["file"]).write_bytes(b"other")
    assert "changed" in (job.text(last["place"])[1] or "")
    Path(last["file"]).unlink()
    text, error = job.text(last["place"])
    assert text is None
    assert "cannot be read" in (error or "")


def test_reading_a_text_has_a_time_limit(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruner.corpus.reader_process._TICK_SECONDS", 0.0)
    last = max(job.at(0, 100), key=lambda row: row["place"])
    assert "too deep" in (job.text(last["place"], seconds=0)[1] or "")
