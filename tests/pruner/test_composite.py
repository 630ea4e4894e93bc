"""Selections by several scores: each keeps what a plain computation in Python keeps, with its percentiles."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pruner.ranks.rank_key import RankKey, mean_key
from pruner.select.composite import Scores, difference_key, rank_sum_key, write_stages
from pruner.select.order import by_hash, by_score, write_order
from pruner.select.score_table import SCORES_FILE
from pruner.spec import BY_TOKEN, Order, SelectionSpec
from pruner.tables import parquet_parts
from pruner.tables.storage import Storage
from tests.pruner.conftest import jsonl
from tests.pruner.oracle import select
from tests.pruner.scored import SPLIT, ScoredCorpus, corpus_spec, write_selection
from tests.pruner.test_order import plain_hash

Rows = list[dict[str, Any]]
SCORES = ["edu", "edu_int", "quality", "perplexity"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScoredCorpus]:
    """120 documents in three domains, with scores that tie often and are null now and then, read in parts of 30."""
    folder, draw = tmp_path_factory.mktemp("composite"), np.random.default_rng(0)
    (folder / "corpus").mkdir()
    for file in range(3):
        rows = [{"text": f"{'x' * int(draw.integers(1, 9))}", "domain": "abc"[i % 3]} for i in range(40)]
        (folder / "corpus" / f"{file}.jsonl").write_bytes(jsonl(rows))
    spec = corpus_spec(folder / "corpus", domain_field="domain")
    made = ScoredCorpus(
        Storage(str(folder / "work")), spec, lambda text: (len(text), len(text) * (len(text) % 3 + 1.0))
    )
    made.index(split=SPLIT)
    table = made.table(f"job/{SCORES_FILE}")
    edu = draw.integers(-8, 40, len(table)) / 8
    columns = {
        "edu": pa.array(edu.astype(np.float32), mask=draw.random(len(table)) < 0.1),
        "edu_int": pa.array(np.round(np.clip(edu, 0, 5)).astype(np.int64), mask=draw.random(len(table)) < 0.1),
        "quality": pa.array(draw.integers(0, 4, len(table)) - 0.0, mask=draw.random(len(table)) < 0.2),
        "none": pa.nulls(len(table), pa.float64()),
        "ab": pa.array(draw.random(len(table)), mask=np.array([name == "c" for name in table["domain"].to_pylist()])),
        "big_nll": pa.array(draw.integers(1, 9, len(table)) * 1.5, mask=draw.random(len(table)) < 0.1),
        "big_n_tokens": pa.array(draw.integers(1, 5, len(table))),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    with made.storage.create(f"job/{SCORES_FILE}") as file:
        pq.write_table(table, file, 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_parts, "_PART_ROWS", 30)
        yield made


def made_of(scored: ScoredCorpus) -> Scores:
    def rank_key(order: Order) -> RankKey:
        if order == BY_TOKEN:
            return mean_key("n_tokens")
        return by_hash(scored.plan, order.seed) if order.by == "hash" else by_score(scored.storage, "job", order.column)

    return Scores(scored.storage, "job", rank_key, lambda: None)


def make(scored: ScoredCorpus, spec: SelectionSpec) -> Rows:
    """A selection's manifest, whose counts are checked."""
    order, scores = spec.order, made_of(scored)
    folder = f"order/{order.name}"
    if order.by == "stages":
        write_stages(scores, folder, order.stages)
    elif order.by == "score":
        key = by_score(scored.storage, "job", order.column)
        write_order(scored.storage, "job", folder, key, lambda: None)
    elif order.by == "rank_sum":
        write_order(scored.storage, "job", folder, rank_sum_key(scores, order.terms, within=order.within), lambda: None)
    else:
        key = difference_key(("nll", "n_tokens"), ("big_nll", "big_n_tokens"))
        write_order(scored.storage, "job", folder, key, lambda: None)
    record = write_selection(scored.storage, "job", folder, f"made/{spec.id}", spec, {})
    rows = scored.rows(f"made/{spec.id}/manifest.parquet")
    assert (record.documents, record.tokens) == (len(rows), sum(row["n_tokens"] for row in rows))
    assert sum(domain.documents for domain in record.domains) == len(rows)
    kept = [row["perplexity"] for row in rows]
    ends = (min(kept), max(kept)) if kept else (None, None)
    assert (record.perplexity_min, record.perplexity_max) == ends
    return rows


def plain(scored: ScoredCorpus, spec: SelectionSpec) -> list[tuple[str, int, float | None]]:
    """The file, row and percentile of each document that a selection keeps, computed with lists."""
    rows = [row for row in scored.rows(f"job/{SCORES_FILE}") if row["reject"] is None and not row["training"]]
    used = [name for name in spec.scores if name is not None]
    if spec.difference is not None:
        used = ["big_nll"]
    rows = [row for row in rows if all(row[name] is not None for name in used)]
    files = [file.url for file in scored.plan.files]

    def chosen(rows: Rows, key: list[Any], rule: Any) -> tuple[Rows, list[float]]:
        codes = np.unique([row["domain"] for row in rows], return_inverse=True)[1] if rows else np.zeros(0, int)
        counts = np.array([row["n_tokens"] for row in rows], dtype=np.int64)
        found = select(np.ones(len(rows)), counts, rule, codes, np.array(key))
        return [rows[n] for n in found.kept.tolist()], found.percentile.tolist()

    percentile: list[float | None] = [None] * len(rows)
    for stage in spec.stages or ():
        if stage.rule is None:
            low, high = stage.at_least, stage.at_most
            inside = [
                (low is None or row[stage.score] >= low) and (high is None or row[stage.score] <= high) for row in rows
            ]
            percentile = [value for value, is_inside in zip(percentile, inside, strict=True) if is_inside]
            rows = [row for row, is_inside in zip(rows, inside, strict=True) if is_inside]
        elif not rows:
            percentile = []
        else:
            if stage.criterion == "random":
                key = [np.uint64(plain_hash(stage.seed or 0, files.index(row["file"]), row["row"])) for row in rows]
            else:
                key = [row["nll"] / row["n_tokens"] if stage.score is None else row[stage.score] for row in rows]
            rows, found = chosen(rows, key, stage.rule)
            percentile = list(found)
    if spec.score is not None:
        rows, percentile = chosen(rows, [row[spec.score] for row in rows], spec)  # type: ignore[assignment]
    if spec.difference is not None:
        key = [row["nll"] / row["n_tokens"] - row["big_nll"] / row["big_n_tokens"] for row in rows]
        rows, percentile = chosen(rows, key, spec)  # type: ignore[assignment]
    if spec.rank_sum is not None:
        sums = [0] * len(rows)
        for name, weight in spec.rank_sum:
            for domain in {row["domain"] for row in rows} if spec.within else {None}:
                inside = [n for n, row in enumerate(rows) if domain is None or row["domain"] == domain]
                inside.sort(key=lambda n: rows[n][name])
                for rank, number in enumerate(inside):
                    sums[number] += weight * rank
        rows, percentile = chosen(rows, sums, spec)  # type: ignore[assignment]
    return [(row["file"], row["row"], value) for row, value in zip(rows, percentile, strict=True)]


RATES = st.sampled_from([0.5, 0.25, 1.0, 0.145])
WITHIN = st.sampled_from([None, "domain"])
RANKED = {"criterion": st.sampled_from(["low", "medium", "high"]), "rate": RATES, "within": WITHIN}
THRESHOLDS = st.fixed_dictionaries(
    {"score": st.sampled_from(SCORES)},
    optional={"at_least": st.sampled_from([0, 1, 2.5]), "at_most": st.sampled_from([2, 3, 12.0])},
).filter(lambda stage: len(stage) > 1)
STAGE = st.one_of(
    THRESHOLDS,
    st.fixed_dictionaries(RANKED | {"score": st.sampled_from([None, *SCORES])}),
    st.fixed_dictionaries({"criterion": st.just("random"), "rate": RATES, "seed": st.sampled_from([0, 7])}),
)
COMPOSITES = st.one_of(
    st.fixed_dictionaries({"stages": st.lists(STAGE, min_size=1, max_size=4)}),
    st.fixed_dictionaries(RANKED | {"difference": st.just(["perplexity", "big"])}),
    st.fixed_dictionaries(
        RANKED
        | {
            "rank_sum": st.lists(
                st.tuples(st.sampled_from(SCORES), st.sampled_from([-3, -1, 0, 1, 2])), min_size=1, max_size=3
            ),
            "unit": st.sampled_from(["documents", "tokens"]),
        }
    ),
)


@given(fields=COMPOSITES)
@example(fields={"stages": [{"criterion": "medium", "rate": 0.5}]})
@settings(max_examples=60, deadline=None)
def test_a_selection_keeps_what_a_plain_computation_keeps(scored: ScoredCorpus, fields: dict[str, Any]) -> None:
    spec = SelectionSpec.model_validate(fields)
    found = [(row["file"], row["row"], row["percentile"]) for row in make(scored, spec)]
    assert found == plain(scored, spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"score": "none"},
        {"score": "none", "unit": "tokens", "within": "domain"},
        {"rank_sum": [["none", 1], ["edu", 1]], "unit": "tokens"},
        {"stages": [{"score": "none", "at_least": 1}]},
        {"stages": [{"criterion": "low"}, {"score": "none", "criterion": "high"}]},
    ],
)
def test_a_selection_by_a_score_that_no_document_has_keeps_nothing(
    scored: ScoredCorpus, fields: dict[str, Any]
) -> None:
    assert make(scored, SelectionSpec.model_validate(fields)) == []


def test_a_domain_without_a_score_takes_no_part(scored: ScoredCorpus) -> None:
    for criterion in ("low", "medium", "high"):
        fields = {"score": "ab", "criterion": criterion, "unit": "tokens", "within": "domain"}
        spec = SelectionSpec.model_validate(fields)
        found = make(scored, spec)
        assert {row["domain"] for row in found} == {"a", "b"}
        assert [(row["file"], row["row"], row["percentile"]) for row in found] == plain(scored, spec)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stages": [{"score": "a", "at_least": 1, "criterion": "low"}]}, "not both"),
        ({"stages": [{"at_least": 1}]}, "give 'score'"),
        ({"stages": [{"score": "a", "at_least": 3, "at_most": 2.5}]}, "no value is at least 3 and at most 2.5"),
        ({"stages": [{"score": "a", "at_least": 1}], "rate": 0.5}, "leave these out"),
        ({"score": "a", "rank_sum": [["b", 1]]}, "one order"),
        ({"difference": ["a", "b"], "per": "byte"}, "leave out 'per'"),
        ({"rank_sum": [["a", 1.5]]}, "integer"),
        ({"name": "all"}, "give another name"),
        ({"name": "a/b"}, "pattern"),
        ("fineweb", "there is no selection"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SelectionSpec.model_validate(fields)


def test_a_selection_has_its_name_or_an_id_of_its_fields() -> None:
    ids = [
        SelectionSpec.model_validate(fields).id
        for fields in (
            "paper-pile",
            {"name": "best.of_2", "rate": 0.25},
            {"difference": ["perplexity", "big"], "criterion": "low"},
            {"rank_sum": [["edu", 1], ["perplexity", -1]], "criterion": "high"},
            {"stages": [{"score": "edu_int", "at_least": 3}]},
        )
    ]
    assert ids[:3] == ["paper-pile", "best.of_2", "low-0.5-perplexity-minus-big"]
    assert ids[3].startswith("high-0.5-ranks-")
    assert ids[4].startswith("stages-")
