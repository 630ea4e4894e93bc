"""Selections are slices of the index: manifests hold the kept rows as they were scored, and records count them."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from pruner.report import Report, report
from pruner.select import selection
from pruner.select.kept_scores import KeptScores
from pruner.select.score_columns import Correlations
from pruner.select.selection_record import SelectionRecord
from pruner.select.write_index import read_summary
from pruner.spec import SelectionSpec
from pruner.tables.json_lines import write_json_lines
from pruner.tables.records import read_record, write_record
from tests.pruner.oracle import select
from tests.pruner.scored import SPLIT, ScoredCorpus, write_selection
from tests.pruner.test_index import SPECS

PROVENANCE = {"reference": {"sha256": "ab"}, "winnow": "1"}
CHOSEN = [
    SelectionSpec(criterion="low", rate=0.3),
    SelectionSpec(criterion="medium", rate=0.5, unit="tokens"),
    SelectionSpec(criterion="high", rate=0.25, within="domain"),
    SelectionSpec(criterion="medium", rate=1),
    SelectionSpec(criterion="low", rate=1e-9),
]


def write(scored: ScoredCorpus, spec: SelectionSpec, folder: str = "made") -> SelectionRecord:
    return write_selection(scored.storage, "job", "job", f"{folder}/{spec.id}", spec, PROVENANCE)


@pytest.fixture
def indexed(scored: ScoredCorpus) -> ScoredCorpus:
    scored.index(split=SPLIT)
    return scored


@pytest.mark.parametrize("spec", CHOSEN, ids=lambda spec: spec.id)
def test_a_manifest_holds_the_kept_rows_as_they_were_scored(indexed: ScoredCorpus, spec: SelectionSpec) -> None:
    record = write(indexed, spec)
    table = indexed.table(f"made/{spec.id}/manifest.parquet")
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
            ("n_bytes", pa.int64()),
        ]
    )
    assert json.loads(table.schema.metadata[b"winnow"]) == PROVENANCE | {
        "selection": spec.model_dump(),
        "percentile": "exact",
    }
    rows = table.to_pylist()
    scores = {(row["file"], row["row"]): row for row in indexed.rows("job/scores.parquet")}
    places = [(row["file"], row["row"]) for row in rows]
    assert places == sorted(places)
    assert not any(scores[place]["training"] for place in places)
    for row in rows:
        assert row.items() <= scores[row["file"], row["row"]].items() | {"percentile": row["percentile"]}.items()
    assert (record.documents, record.tokens) == (len(rows), sum(row["n_tokens"] for row in rows))
    found = [row["perplexity"] for row in rows]
    assert (record.perplexity_min, record.perplexity_max) == (min(found, default=None), max(found, default=None))
    for domain in record.domains:
        inside = [row for row in rows if row["domain"] == domain.domain]
        assert (domain.documents, domain.tokens) == (len(inside), sum(row["n_tokens"] for row in inside))


@given(spec=SPECS)
@settings(max_examples=30, deadline=None)
def test_a_manifest_is_the_selection_by_a_plain_sort(many_indexed: ScoredCorpus, spec: SelectionSpec) -> None:
    rows = [row for row in many_indexed.rows("job/scores.parquet") if row["reject"] is None and not row["training"]]
    domains = np.unique([str(row["domain"]) for row in rows], return_inverse=True)[1]
    nll, n_tokens = (np.array([row[name] for row in rows]) for name in ("nll", "n_tokens"))
    expected = select(nll, n_tokens, spec, domains)
    write(many_indexed, spec)
    manifest = many_indexed.rows(f"made/{spec.id}/manifest.parquet")
    assert [(row["file"], row["row"]) for row in manifest] == [
        (rows[kept]["file"], rows[kept]["row"]) for kept in expected.kept.tolist()
    ]
    assert [row["percentile"] for row in manifest] == expected.percentile.tolist()


def test_the_record_is_stored_and_names_its_files(indexed: ScoredCorpus) -> None:
    spec = SelectionSpec(within="domain")
    record = write(indexed, spec)
    assert read_record(indexed.storage, f"made/{spec.id}/selection.json", SelectionRecord) == record
    assert indexed.storage.read_json(f"made/{spec.id}/selection.json")["format"] == 1
    data = indexed.storage.read_bytes(f"made/{spec.id}/manifest.parquet")
    written = record.files["manifest.parquet"]
    assert (written.sha256, written.size) == (hashlib.sha256(data).hexdigest(), len(data))


def test_a_manifest_as_json_lines(indexed: ScoredCorpus) -> None:
    spec = SelectionSpec()
    write(indexed, spec)
    path = f"made/{spec.id}/manifest"
    write_json_lines(indexed.storage, f"{path}.parquet", f"{path}.jsonl", lambda: None)
    lines = indexed.storage.read_bytes(f"{path}.jsonl").splitlines()
    assert [json.loads(line) for line in lines] == indexed.rows(f"{path}.parquet")


def test_the_same_selection_gives_the_same_bytes(indexed: ScoredCorpus) -> None:
    spec = SelectionSpec()
    for folder in ("one", "two"):
        write(indexed, spec, folder)
    names = {file.path.removeprefix("one/") for file in indexed.storage.files("one")}
    assert names == {f"{spec.id}/manifest.parquet", f"{spec.id}/selection.json"}
    for name in names:
        assert indexed.storage.read_bytes(f"one/{name}") == indexed.storage.read_bytes(f"two/{name}")


def test_no_row_group_is_empty(indexed: ScoredCorpus) -> None:
    for spec in CHOSEN:
        write(indexed, spec)
    for name in ("job/rejects.parquet", "job/scores.parquet", *(f"made/{s.id}/manifest.parquet" for s in CHOSEN)):
        with indexed.storage.open(name) as source:
            metadata = pq.ParquetFile(source).metadata
        assert all(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))


def test_the_report_has_the_summary_and_the_selections(indexed: ScoredCorpus) -> None:
    made = [write(indexed, SelectionSpec(criterion=criterion)) for criterion in ("low", "high")]
    summary = read_summary(indexed.storage, "job")
    kept, correlations = KeptScores([], []), Correlations(method="exact", bins=None, pairs=[])
    write_record(indexed.storage, "job/report.json", report(summary, made, kept, correlations))
    found = indexed.storage.read_json("job/report.json")
    assert found.pop("selections") == [json.loads(record.flat().model_dump_json()) for record in made]
    assert [found.pop(name) for name in ("scores", "correlations", "overlaps")] == [[], correlations.model_dump(), []]
    assert found == json.loads(summary.model_dump_json())
    assert found["domains"][0].keys() >= {"domain", "documents", "tokens", "perplexity_median", "tokens_share"}
    assert [selection.id for selection in read_record(indexed.storage, "job/report.json", Report).selections] == [
        "low-0.5",
        "high-0.5",
    ]


def test_parts_make_the_same_selection(indexed: ScoredCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {spec: indexed.rows(f"made/{write(indexed, spec).spec.id}/manifest.parquet") for spec in CHOSEN}
    monkeypatch.setattr(selection, "PART_ROWS", 20)
    for spec in CHOSEN:
        made = write(indexed, spec, "parts")
        data = indexed.storage.read_bytes(f"parts/{spec.id}/manifest.parquet")
        assert indexed.rows(f"parts/{spec.id}/manifest.parquet") == whole[spec]
        assert made.files["manifest.parquet"].sha256 == hashlib.sha256(data).hexdigest()
        assert indexed.storage.list(f"parts/{spec.id}") == ["manifest.parquet", "parts", "selection.json"]
        assert indexed.storage.list(f"parts/{spec.id}/parts") == []
