"""From the files of the shards to tables and a summary that agree with each other."""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pruner.corpus.train_split import Split
from pruner.errors import InputError
from pruner.select.write_index import check_eligible, join_index, read_files, read_summary, write_index_part
from pruner.tables.json_lines import write_json_lines
from pruner.tables.shard_scores import ScoresWriter
from pruner.tables.storage import Storage
from tests.pruner.conftest import jsonl
from tests.pruner.scored import SPLIT, ScoredCorpus, corpus_spec


def test_every_row_of_the_corpus_is_in_the_table_once(scored: ScoredCorpus) -> None:
    counts = scored.index(split=SPLIT)
    table = scored.table("job/scores.parquet")
    assert table.schema.remove_metadata() == pa.schema(
        [
            ("file", pa.string()),
            ("row", pa.int64()),
            ("id", pa.string()),
            ("domain", pa.string()),
            ("n_tokens", pa.int64()),
            ("nll", pa.float64()),
            ("perplexity", pa.float64()),
            ("n_bytes", pa.int64()),
            ("surprisal_sq", pa.float64()),
            ("surprisal_max", pa.float64()),
            ("share_8", pa.float64()),
            ("prior_mean", pa.float64()),
            ("prior_std", pa.float64()),
            ("training", pa.bool_()),
            ("reject", pa.string()),
        ]
    )
    rows = table.to_pylist()
    one, two = (file.url for file in scored.plan.files)
    assert [(row["file"], row["row"]) for row in rows] == [(one, i) for i in range(70)] + [(two, i) for i in range(81)]
    assert [row["id"] for row in rows] == [f"é{i}" for i in range(150)] + [None]
    for row in rows:
        has_score = row["reject"] is None
        assert has_score == (row["nll"] is not None) == (row["n_tokens"] is not None) == (row["perplexity"] is not None)
        if has_score:
            assert row["n_bytes"] == row["n_tokens"]
            assert row["perplexity"] == pytest.approx(np.exp(row["nll"] / row["n_tokens"]), rel=1e-12)
            assert row["surprisal_sq"] == pytest.approx(row["surprisal_max"] * row["nll"])
            assert row["share_8"] == (row["surprisal_max"] > 8)
    eligible = [row for row in rows if row["reject"] is None and not row["training"]]
    assert counts.model_dump() == {
        "documents": 151,
        "tokens": sum(row["n_tokens"] or 0 for row in rows),
        "rejects": sum(row["reject"] is not None for row in rows),
        "training": sum(row["training"] for row in rows),
        "eligible": len(eligible),
        "scorers": [{"context": 5}, {"context": 6}],
        "further": {},
    }
    assert 10 < counts.training < 60


def test_rejects_have_their_reasons_in_both_formats(scored: ScoredCorpus) -> None:
    scored.index(split=SPLIT)
    rejects = scored.rows("job/rejects.parquet")
    expected = [
        {"file": row["file"], "row": row["row"], "id": row["id"], "reason": row["reject"]}
        for row in scored.rows("job/scores.parquet")
        if row["reject"]
    ]
    assert rejects == expected
    written = write_json_lines(scored.storage, "job/rejects.parquet", "job/rejects.jsonl", lambda: None)
    data = scored.storage.read_bytes("job/rejects.jsonl")
    assert [json.loads(line) for line in data.splitlines()] == expected
    assert (written.sha256, written.size) == (hashlib.sha256(data).hexdigest(), len(data))
    reasons = Counter(row["reason"].partition(":")[0] for row in rejects)
    assert set(reasons) == {"empty text", "non-finite NLL", "unreadable row"}
    assert read_summary(scored.storage, "job").rejects.reasons == reasons


def test_hash_and_size_of_the_tables_are_recorded(scored: ScoredCorpus) -> None:
    scored.index()
    files = read_files(scored.storage, "job").files
    assert set(files) == {"scores.parquet", "rejects.parquet"}
    for name, written in files.items():
        data = scored.storage.read_bytes(f"job/{name}")
        assert (written.sha256, written.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_the_same_files_give_the_same_bytes(scored: ScoredCorpus) -> None:
    for folder in ("one", "two"):
        scored.index(folder, SPLIT)
    names = [file.path.removeprefix("one/") for file in scored.storage.files("one")]
    assert len(names) == 20
    for name in names:
        assert scored.storage.read_bytes(f"one/{name}") == scored.storage.read_bytes(f"two/{name}")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_parts_make_the_same_index(scored: ScoredCorpus, size: int) -> None:
    counts = scored.index("whole", SPLIT)
    storage, files = scored.storage, (scored.documents_paths, scored.scores_paths)
    numbers = range(len(scored.plan.shards))
    groups = {f"part-{first}": numbers[first : first + size] for first in numbers[::size]}
    for part, shards in reversed(groups.items()):
        write_index_part(storage, part, scored.plan, *files, SPLIT, shards, lambda: None)
    parts = list(groups)
    assert join_index(storage, "joined", parts, scored.spec, lambda: None) == counts
    for name in ("scores.parquet", "rejects.parquet"):
        assert scored.table(f"joined/{name}").equals(scored.table(f"whole/{name}"), check_metadata=True)
    arrays = [file.path for file in storage.files("whole/ranks")] + ["whole/summary.json"]
    for path in arrays:
        assert storage.read_bytes(path.replace("whole", "joined", 1)) == storage.read_bytes(path)


def test_the_summary_counts_what_the_tables_hold(scored: ScoredCorpus) -> None:
    counts = scored.index(split=SPLIT)
    summary = read_summary(scored.storage, "job")
    eligible = [r for r in scored.rows("job/scores.parquet") if r["reject"] is None and not r["training"]]
    tokens = [row["n_tokens"] for row in eligible]
    assert (summary.eligible.documents, summary.eligible.tokens) == (len(eligible), sum(tokens))
    assert (summary.documents, summary.training) == (151, counts.training)
    assert sum(summary.rejects.reasons.values()) == summary.rejects.documents == counts.rejects
    assert (summary.cut.context, summary.cut.documents) == (5, sum(n >= 5 for n in tokens))
    assert (summary.short.under_tokens, summary.short.documents) == (32, len(eligible))
    keys = Counter(row["nll"] / row["n_tokens"] for row in eligible)
    assert summary.equal.largest == max(keys.values())
    assert summary.equal.documents == sum(times for times in keys.values() if times > 1)

    histogram = summary.histogram
    assert (sum(histogram.documents), sum(histogram.tokens)) == (len(eligible), sum(tokens))
    assert len(histogram.edges) == len(histogram.documents) + 1
    low, high = math.log(min(r["perplexity"] for r in eligible)), math.log(max(r["perplexity"] for r in eligible))
    assert histogram.edges[0] <= low < histogram.edges[1]
    assert histogram.edges[-2] <= high < histogram.edges[-1]

    ordered = sorted(row["perplexity"] for row in eligible)
    for percent, value in summary.perplexity.quantiles.items():
        assert value == pytest.approx(np.quantile(ordered, int(percent) / 100, method="inverted_cdf"))
    lengths = summary.lengths
    for first, last, cells in zip(lengths.token_edges[:-1], lengths.token_edges[1:], lengths.documents, strict=True):
        assert sum(cells) == sum(first <= n < last for n in tokens)
    for row in summary.domains:
        inside = [r for r in eligible if r["domain"] == row.domain]
        assert (row.documents, row.tokens) == (len(inside), sum(r["n_tokens"] for r in inside))
        median = sorted(r["perplexity"] for r in inside)[(len(inside) - 1) // 2]
        assert row.perplexity_median == pytest.approx(median)
    assert sum(row.documents_share for row in summary.domains) == pytest.approx(1)


def test_perplexities_beyond_float64_are_null(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a"}, {"text": "b"}]))
    corpus = ScoredCorpus(Storage(str(tmp_path / "ws")), corpus_spec(tmp_path), lambda _text: (1, 1000.0))
    corpus.index()
    assert set(read_summary(corpus.storage, "job").perplexity.quantiles.values()) == {None}


def test_many_domains_are_summed_in_the_summary(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "ab", "domain": f"d{min(i, 1500)}"} for i in range(2000)]))
    spec = corpus_spec(tmp_path, domain_field="domain")
    corpus = ScoredCorpus(Storage(str(tmp_path / "ws")), spec, lambda _text: (2, 1.0))
    corpus.index()
    domains = read_summary(corpus.storage, "job").domains
    assert (domains[0].domain, domains[0].documents) == ("d1500", 500)
    assert (domains[-1].domain, domains[-1].others, domains[-1].documents) == (None, 501, 501)


def test_progress_is_reported_for_each_shard_and_array(scored: ScoredCorpus) -> None:
    beats: list[None] = []
    scored.index(beat=lambda: beats.append(None))
    assert len(beats) > len(scored.plan.shards) + 10


@pytest.mark.parametrize(
    ("lines", "split", "message"),
    [
        (
            b'[]\n{"text": 1}\n[]\n',
            None,
            "no document of 3 has a score .2 times: unreadable row: not a JSON object, 1 times: not text: int",
        ),
        (
            b'{"txt": "a"}\n{"text": ""}\n',
            None,
            "1 times: not text: no field 'text', 1 times: empty text.; check corpus.text_field",
        ),
        (b'{"text": "ab"}\n', Split(0, 1.0), "every document with a score trains the reference"),
        (b'{"text": ""}\n', Split(0, 0.5), "no document of 1 has a score"),
    ],
)
def test_nothing_to_select_from_is_an_error(tmp_path: Path, lines: bytes, split: Any, message: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines)
    corpus = ScoredCorpus(Storage(str(tmp_path / "ws")), corpus_spec(tmp_path), lambda _text: (1, 1.0))
    with pytest.raises(InputError, match=message):
        check_eligible(corpus.storage, "job", corpus.index(split=split))
    rejected = [row for row in corpus.rows("job/scores.parquet") if row["reject"]]
    assert len(corpus.rows("job/rejects.parquet")) == len(rejected)
    assert set(read_files(corpus.storage, "job").files) == {"scores.parquet", "rejects.parquet"}
    assert not corpus.storage.exists("job/summary.json")


def test_a_missing_shard_file_is_an_error_and_nothing_is_written(scored: ScoredCorpus) -> None:
    for path in (scored.documents_paths[1], scored.scores_paths[1]):
        data = scored.storage.read_bytes(path)
        scored.storage.remove(path)
        with pytest.raises(FileNotFoundError):
            scored.index()
        assert scored.storage.list("job") == []
        scored.storage.write_bytes(path, data)


def test_shard_files_that_do_not_match_are_named(scored: ScoredCorpus) -> None:
    with ScoresWriter(scored.storage, scored.scores_paths[1], {}):
        pass
    with pytest.raises(InputError, match="scores/1: has 0 rows, but documents/1 has"):
        scored.index()
