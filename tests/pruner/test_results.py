"""From the shards' score files to tables, manifests and a report that agree with each other."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus import plan as plans
from pruner.corpus.plan import Plan, make_plan
from pruner.corpus.shard_reader import read_shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec, SelectionSpec
from pruner.tables import score_table as tables
from pruner.tables.job_results import check_eligible, write_report, write_results, write_selection
from pruner.tables.score_table import Split
from pruner.tables.shard_scores import ShardScoresWriter
from pruner.tables.storage import Storage
from tests.pruner.conftest import jsonl, parquet

SPLIT = Split(3, 0.2)
PROVENANCE = {"reference": {"sha256": "ab"}, "winnow": "1"}


class Scored:
    """A corpus of three files in several shards, scored by a made-up rule that gives ties."""

    def __init__(self, folder: Path) -> None:
        self.storage = Storage(str(folder / "workspace"))
        corpus = folder / "corpus"
        corpus.mkdir()
        rows = [{"text": f"{'w' * (i % 9)}", "id": f"é{i}", "domain": ["a", "b", None][i % 3]} for i in range(150)]
        (corpus / "1.parquet").write_bytes(parquet(rows[:70], 9))
        (corpus / "2.jsonl").write_bytes(jsonl(rows[70:]) + b"broken\n")
        self.spec = CorpusSpec(paths=[str(corpus)], id_field="id", domain_field="domain")
        self.plan: Plan = make_plan(self.spec)
        self.paths = [f"scores/{shard.index}" for shard in self.plan.shards]
        for shard, path in zip(self.plan.shards, self.paths, strict=True):
            with ShardScoresWriter(self.storage, path, {}) as writer:
                for block in read_shard(self.plan, shard, self.spec):
                    tokens = np.array([len(text or "") for text in block.texts])
                    writer.append(block, tokens, np.where(tokens == 7, np.nan, tokens * (tokens % 4 + 0.5)))

    def results(self, folder: str = "job", split: Split | None = SPLIT) -> dict[str, Any]:
        return write_results(self.storage, folder, self.plan, self.paths, split)

    def rows(self, path: str) -> list[dict[str, Any]]:
        with self.storage.open(path) as source:
            return list(pq.read_table(source).to_pylist())


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scored:
    monkeypatch.setattr(plans, "SHARD_BYTES", 400)
    monkeypatch.setattr(plans, "SHARD_BYTES_MAX", 800)
    monkeypatch.setattr(tables, "ROWS_A_GROUP", 16)
    made = Scored(tmp_path)
    assert len({shard.file for shard in made.plan.shards}) == 2 < len(made.plan.shards)
    return made


def test_every_row_of_the_corpus_stands_in_the_table_once(scored: Scored) -> None:
    counts = scored.results()
    rows = scored.rows("job/scores.parquet")
    one, two = (file.url for file in scored.plan.files)
    assert [(row["file"], row["row"]) for row in rows] == [(one, i) for i in range(70)] + [(two, i) for i in range(81)]
    assert [row["id"] for row in rows] == [f"é{i}" for i in range(150)] + [None]
    for row in rows:
        scored_row = row["reject"] is None
        assert (
            scored_row == (row["nll"] is not None) == (row["n_tokens"] is not None) == (row["perplexity"] is not None)
        )
        if scored_row:
            assert row["perplexity"] == pytest.approx(np.exp(row["nll"] / row["n_tokens"]), rel=1e-12)
    eligible = [row for row in rows if row["reject"] is None and not row["training"]]
    assert counts == {
        "documents": 151,
        "tokens": sum(row["n_tokens"] or 0 for row in rows),
        "rejects": sum(row["reject"] is not None for row in rows),
        "training": sum(row["training"] for row in rows),
        "eligible": len(eligible),
    }
    assert 10 < counts["training"] < 60


def test_rejects_have_their_reasons_in_both_formats(scored: Scored) -> None:
    scored.results()
    rejects = scored.rows("job/rejects.parquet")
    expected = [
        {"file": row["file"], "row": row["row"], "id": row["id"], "reason": row["reject"]}
        for row in scored.rows("job/scores.parquet")
        if row["reject"]
    ]
    assert rejects == expected
    assert [json.loads(line) for line in scored.storage.read_bytes("job/rejects.jsonl").splitlines()] == expected
    reasons = Counter(row["reason"].partition(":")[0] for row in rejects)
    assert set(reasons) == {"empty text", "non-finite NLL", "unreadable row"}
    with scored.storage.open("job/rejects.parquet") as source:
        table = pq.ParquetFile(source).metadata
    assert all(table.row_group(i).num_rows for i in range(table.num_row_groups))  # at an empty one some readers fail


@pytest.mark.parametrize(
    "spec",
    [
        SelectionSpec(criterion="low", rate=0.3),
        SelectionSpec(criterion="medium", rate=0.5, unit="tokens"),
        SelectionSpec(criterion="high", rate=0.25, within="domain"),
        SelectionSpec(criterion="medium", rate=1),
        SelectionSpec(criterion="low", rate=1e-9),
    ],
    ids=lambda spec: spec.id,
)
def test_a_manifest_holds_the_kept_rows_as_they_were_scored(scored: Scored, spec: SelectionSpec) -> None:
    scored.results()
    made = write_selection(scored.storage, "job", spec, PROVENANCE)
    folder = f"job/selections/{spec.id}"
    with scored.storage.open(f"{folder}/manifest.parquet") as source:
        table = pq.read_table(source)
    assert table.schema.remove_metadata() == pa.schema(
        [
            ("file", pa.string()),
            ("row", pa.int64()),
            ("id", pa.string()),
            ("domain", pa.string()),
            ("n_tokens", pa.int64()),
            ("nll", pa.float64()),
            ("perplexity", pa.float64()),
            ("percentile", pa.float64()),
        ]
    )
    assert json.loads(table.schema.metadata[b"winnow"]) == PROVENANCE | {"selection": spec.model_dump()}
    rows = table.to_pylist()
    assert [json.loads(line) for line in scored.storage.read_bytes(f"{folder}/manifest.jsonl").splitlines()] == rows
    all_rows = {(row["file"], row["row"]): row for row in scored.rows("job/scores.parquet")}
    places = [(row["file"], row["row"]) for row in rows]
    assert places == sorted(places)
    assert not any(all_rows[place]["training"] for place in places)
    assert all(
        row.items() <= all_rows[row["file"], row["row"]].items() | {"percentile": row["percentile"]}.items()
        for row in rows
    )
    assert (made["documents"], made["tokens"]) == (len(rows), sum(row["n_tokens"] for row in rows))
    band = [row["perplexity"] for row in rows]
    assert (made["perplexity_min"], made["perplexity_max"]) == (min(band, default=None), max(band, default=None))


def test_what_is_said_of_files_is_so(scored: Scored) -> None:
    scored.results()
    made = write_selection(scored.storage, "job", SelectionSpec(), PROVENANCE)
    said = {f"job/{name}": about for name, about in scored.storage.read_json("job/downloads.json").items()}
    said |= {f"job/selections/medium-0.5/{name}": about for name, about in made["files"].items()}
    assert len(said) == 5
    for path, about in said.items():
        data = scored.storage.read_bytes(path)
        assert about == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    assert scored.storage.read_json("job/selections/medium-0.5/selection.json") == made


def test_the_same_again_is_the_same_bytes(scored: Scored) -> None:
    for folder in ("one", "two"):
        scored.results(folder)
        write_selection(scored.storage, folder, SelectionSpec(), PROVENANCE)
    for name in ("scores.parquet", "rejects.parquet", "selections/medium-0.5/manifest.parquet"):
        assert scored.storage.read_bytes(f"one/{name}") == scored.storage.read_bytes(f"two/{name}")


def test_the_report_counts_what_the_tables_hold(scored: Scored) -> None:
    counts = scored.results()
    made = [write_selection(scored.storage, "job", SelectionSpec(criterion=c), {}) for c in ("low", "high")]
    write_report(scored.storage, "job", counts, made)
    report = scored.storage.read_json("job/report.json")
    eligible = [r for r in scored.rows("job/scores.parquet") if r["reject"] is None and not r["training"]]
    tokens = sum(row["n_tokens"] for row in eligible)
    assert report["eligible"] == {"documents": len(eligible), "tokens": tokens}
    assert report["documents"] == 151
    assert sum(report["rejects"]["reasons"].values()) == report["rejects"]["documents"] == counts["rejects"]
    histogram = report["histogram"]
    assert (sum(histogram["documents"]), sum(histogram["tokens"])) == (len(eligible), tokens)
    assert len(histogram["edges"]) == len(histogram["documents"]) + 1
    low, high = np.log(min(r["perplexity"] for r in eligible)), np.log(max(r["perplexity"] for r in eligible))
    assert histogram["edges"][0] <= low < histogram["edges"][1]
    assert histogram["edges"][-2] <= high < histogram["edges"][-1]
    ordered = sorted(row["perplexity"] for row in eligible)
    quantiles = report["perplexity"]["quantiles"]
    assert (quantiles["0"], quantiles["100"]) == (pytest.approx(ordered[0]), pytest.approx(ordered[-1]))
    assert quantiles["50"] == pytest.approx(ordered[(len(ordered) + 1) // 2 - 1])
    for domains, kept in [(report["domains"], eligible)] + [
        (s["domains"], scored.rows(f"job/selections/{s['id']}/manifest.parquet")) for s in report["selections"]
    ]:
        found = {row["domain"]: (row["documents"], row["tokens"]) for row in domains}
        for name in ("a", "b", None):
            inside = [row for row in kept if row["domain"] == name]
            assert found[name] == (len(inside), sum(row["n_tokens"] for row in inside))
        assert sum(row["documents_share"] for row in domains) == pytest.approx(1)


def test_many_domains_are_summed_in_the_report(tmp_path: Path) -> None:
    corpus = tmp_path / "a.jsonl"
    corpus.write_bytes(jsonl([{"text": "ab", "domain": f"d{min(i, 1500)}"} for i in range(2000)]))
    spec, storage = CorpusSpec(paths=[str(corpus)], domain_field="domain"), Storage(str(tmp_path / "ws"))
    plan = make_plan(spec)
    with ShardScoresWriter(storage, "s", {}) as writer:
        for block in read_shard(plan, plan.shards[0], spec):
            writer.append(block, np.full(block.rows, 2), np.arange(block.rows) + 1.0)
    counts = write_results(storage, "job", plan, ["s"], None)
    write_report(storage, "job", counts, [])
    domains = storage.read_json("job/report.json")["domains"]
    assert domains[0] | {"domain": "d1500", "documents": 500} == domains[0]
    assert domains[-1] | {"others": 501, "documents": 501} == domains[-1]


@pytest.mark.parametrize(
    ("lines", "split", "said"),
    [
        (b"[]\n" * 3, None, "no document of 3 has a score .3 times: unreadable row: not a JSON object"),
        (
            b'{"txt": "a"}\n{"text": ""}\n',
            None,
            "1 times: not text: no field 'text', 1 times: empty text.; check corpus.text_field",
        ),
        (b'{"text": "ab"}\n', Split(0, 1.0), "every document with a score trains the reference"),
        (b"\xef\xbb\xbf"[:0] or b"\n", Split(0, 0.5), "no document of 1 has a score"),
    ],
)
def test_nothing_to_select_from_is_said(tmp_path: Path, lines: bytes, split: Split | None, said: str) -> None:
    corpus = tmp_path / "a.jsonl"
    corpus.write_bytes(lines)
    spec, storage = CorpusSpec(paths=[str(corpus)]), Storage(str(tmp_path / "ws"))
    plan = make_plan(spec)
    with ShardScoresWriter(storage, "s", {}) as writer:
        for block in read_shard(plan, plan.shards[0], spec):
            writer.append(block, np.full(block.rows, 1), np.full(block.rows, 1.0))
    counts = write_results(storage, "job", plan, ["s"], split)
    with storage.open("job/rejects.parquet") as source:
        assert pq.read_table(source).num_rows == counts["rejects"]
    with pytest.raises(InputError, match=said):
        check_eligible(storage, "job", counts)
