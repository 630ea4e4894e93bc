"""Other orders: by NLL per byte and by hash, each the same as a plain sort in Python, to the document and the digit."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.corpus.plan import Plan
from pruner.corpus.row_hash import row_hash
from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.select import domain_marks
from pruner.select.index_files import read_index
from pruner.select.order import by_byte, by_hash, write_order
from pruner.select.selection_record import SelectionRecord
from pruner.spec import BY_BYTE, BY_TOKEN, Order, SelectionSpec
from pruner.tables import parquet_parts, table_writer
from pruner.tables.storage import Storage
from tests.pruner.conftest import jsonl, scored_corpus
from tests.pruner.oracle import select
from tests.pruner.scored import SPLIT, ScoredCorpus, corpus_spec, write_selection

Rows = list[dict[str, Any]]
MASK = 2**64 - 1
OF_PREVIEWS = {"inside", "ranked_documents", "value_min", "value_max", "bin_documents", "bin_tokens"}
RATES = st.one_of(st.sampled_from([0.5, 0.25, 1.0, 0.145, 1e-9]), st.floats(0, 1, exclude_min=True, width=32))
COMMON: Any = {
    "rate": RATES,
    "unit": st.sampled_from(["documents", "tokens"]),
    "within": st.sampled_from([None, "domain"]),
}
SPECS = st.one_of(
    st.builds(SelectionSpec, criterion=st.sampled_from(["low", "medium", "high"]), per=st.just("byte"), **COMMON),
    st.builds(SelectionSpec, criterion=st.just("random"), seed=st.sampled_from([0, 3, 2**63 - 1]), **COMMON),
)


def mix(x: int) -> int:
    """The output function of splitmix64, in Python's integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def plain_hash(seed: int, file: int, row: int) -> int:
    """The hash of a document, by the words of the manual."""
    return mix(mix(row) ^ mix((mix(2**63 + seed) + file) & MASK))


def plain_key(rows: Rows, order: Order, plan: Plan) -> np.ndarray:
    """What documents are ordered by: float64 or uint64 [N]."""
    if order == BY_TOKEN:
        return np.array([row["nll"] / row["n_tokens"] for row in rows])
    if order == BY_BYTE:
        return np.array([row["nll"] / row["n_bytes"] for row in rows])
    files = [file.url for file in plan.files]
    hashes = [plain_hash(order.seed, files.index(row["file"]), row["row"]) for row in rows]
    return np.array(hashes, dtype=np.uint64)


def eligible(scored: ScoredCorpus) -> Rows:
    return [row for row in scored.rows("job/scores.parquet") if row["reject"] is None and not row["training"]]


def ranked(scored: ScoredCorpus, order: Order) -> str:
    """The folder of an order, made if it is not there."""
    folder = "job" if order == BY_TOKEN else f"order/{order.name}"
    if not scored.storage.exists(f"{folder}/ranks/ranks.json"):
        rank_key = by_byte() if order == BY_BYTE else by_hash(scored.plan, order.seed)
        documents = write_order(scored.storage, "job", folder, rank_key, lambda: None)
        assert documents == len(eligible(scored))
    return folder


def make(scored: ScoredCorpus, spec: SelectionSpec) -> tuple[Rows, SelectionRecord]:
    """A selection's manifest and record."""
    record = write_selection(scored.storage, "job", ranked(scored, spec.order), f"made/{spec.id}", spec, {})
    return scored.rows(f"made/{spec.id}/manifest.parquet"), record


def check(scored: ScoredCorpus, spec: SelectionSpec) -> None:
    """Asserts that a selection and its preview are those of a plain sort."""
    rows = eligible(scored)
    domains = np.unique([str(row["domain"]) for row in rows], return_inverse=True)[1]
    nll, tokens = (np.array([row[name] for row in rows]) for name in ("nll", "n_tokens"))
    expected = select(nll, tokens, spec, domains, plain_key(rows, spec.order, scored.plan))
    found, record = make(scored, spec)
    kept = [rows[place] for place in expected.kept.tolist()]
    assert [(row["file"], row["row"]) for row in found] == [(row["file"], row["row"]) for row in kept]
    assert [row["percentile"] for row in found] == expected.percentile.tolist()
    assert (record.start, record.stop) == (expected.start, expected.stop)
    assert (record.documents, record.tokens) == (len(kept), sum(row["n_tokens"] for row in kept))
    values = [row["perplexity"] for row in kept]
    assert (record.perplexity_min, record.perplexity_max) == (min(values, default=None), max(values, default=None))
    for domain in record.domains:
        inside = [row["n_tokens"] for row in kept if row["domain"] == domain.domain]
        assert (domain.documents, domain.tokens) == (len(inside), sum(inside))
    preview = read_index(scored.storage, ranked(scored, spec.order)).preview(spec)
    assert preview.flat().model_dump(exclude=OF_PREVIEWS) == record.flat().model_dump()
    for band in preview.inside:
        inside = [row["perplexity"] for row in kept if row["domain"] == band.domain]
        assert band.stop - band.start == len(inside)
        assert (band.perplexity_min, band.perplexity_max) == (min(inside, default=None), max(inside, default=None))


@given(spec=SPECS)
@settings(max_examples=60, deadline=None)
def test_a_selection_is_that_of_a_plain_sort(many_indexed: ScoredCorpus, spec: SelectionSpec) -> None:
    check(many_indexed, spec)


@pytest.fixture
def make_scored(tmp_path: Path) -> Callable[[list[str]], ScoredCorpus]:
    """Corpora of these texts in three files, with an index; their scores tie often, by token and by byte."""
    numbers = count()

    def score(text: str) -> tuple[int, float]:
        return 1 + len(text) % 3, len(text.encode()) * (len(text) % 2 + 0.5)

    def make(texts: list[str]) -> ScoredCorpus:
        folder = tmp_path / str(next(numbers))
        (folder / "corpus").mkdir(parents=True)
        rows = [{"text": text, "domain": "ab"[len(text) % 2]} for text in texts]
        for file in range(3):
            (folder / "corpus" / f"{file}.jsonl").write_bytes(jsonl(rows[file::3]))
        spec = corpus_spec(folder / "corpus", domain_field="domain")
        made = ScoredCorpus(Storage(str(folder / "work")), spec, score)
        made.index()
        return made

    return make


@pytest.mark.parametrize("documents", [1, 2, 3, 7, 101])
def test_odd_sizes_and_ties(make_scored: Callable[[list[str]], ScoredCorpus], documents: int) -> None:
    scored = make_scored(["é" * (1 + i % 5) for i in range(documents)])
    for order in ({"criterion": "random", "seed": 1}, {"criterion": "low", "per": "byte"}, {"per": "byte"}):
        for rate in (0.5, 1 / 3, 1.0, 1e-9):
            for unit in ("documents", "tokens"):
                for within in (None, "domain"):
                    check(scored, SelectionSpec.model_validate({"rate": rate, "unit": unit, "within": within} | order))


def test_equal_keys_are_in_the_order_of_the_files(make_scored: Callable[[list[str]], ScoredCorpus]) -> None:
    scored = make_scored(["same"] * 30)
    found, _ = make(scored, SelectionSpec(criterion="low", rate=0.5, per="byte"))
    every = scored.rows("job/scores.parquet")
    assert [(row["file"], row["row"]) for row in found] == [(row["file"], row["row"]) for row in every[:15]]
    assert [row["percentile"] for row in found] == [100 * rank / 30 for rank in range(15)]


def test_a_smaller_random_selection_is_part_of_a_larger_one(many_indexed: ScoredCorpus) -> None:
    kept = []
    for rate in (0.1, 0.4, 0.9):
        found, _ = make(many_indexed, SelectionSpec(criterion="random", rate=rate, seed=3))
        kept.append({(row["file"], row["row"]) for row in found})
    assert kept[0] < kept[1] < kept[2]


def test_random_selections_differ_by_seed_and_are_nothing_of_the_scores(many_indexed: ScoredCorpus) -> None:
    found = [make(many_indexed, SelectionSpec(criterion="random", seed=seed))[0] for seed in range(3)]
    kept = [{(row["file"], row["row"]) for row in rows} for rows in found]
    assert len(kept[0]) == len(kept[1]) == len(kept[2])
    assert kept[0] != kept[1] != kept[2] != kept[0]
    assert found[0][0]["percentile"] != found[1][0]["percentile"]


def test_the_hash_is_that_of_the_manual() -> None:
    numbers = np.arange(50)
    for seed, file in ((0, 0), (3, 7), (2**63 - 1, 2**31)):
        found = row_hash(2**63 + seed, np.full(50, file), numbers)
        assert found.dtype == np.uint64
        assert found.tolist() == [plain_hash(seed, file, row) for row in range(50)]


def test_the_hash_is_uniform_over_files_rows_and_seeds() -> None:
    rows, parts = np.tile(np.arange(10_000), 10), np.repeat(np.arange(10), 10_000)
    draws = [row_hash(2**63 + seed, parts, rows) for seed in (0, 1, 2)]
    for found in draws:
        assert len(np.unique(found)) == len(found)
        for bits in (found >> np.uint64(58), found & np.uint64(63)):  # the first and the last six
            counts = np.bincount(bits.astype(np.int64), minlength=64)
            assert ((counts - 1562.5) ** 2 / 1562.5).sum() < 125  # chi-square of 63 degrees: more in 5 of 10^6 draws
        low = found < np.uint64(2**63)
        assert abs(low[:10_000].mean() - 0.5) < 0.03
        assert abs((low[1:] == low[:-1]).mean() - 0.5) < 0.01
        assert abs((low[:10_000] == low[10_000:20_000]).mean() - 0.5) < 0.03
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(draws[one].astype(float), draws[other].astype(float))[0, 1]) < 0.02


def test_random_selections_are_independent_of_the_train_split() -> None:
    trains = in_split(Split(0, 0.3), ShardRows(0), np.zeros(100_000, np.int32), np.arange(100_000))
    drawn = row_hash(2**63, 0, np.arange(100_000)) < np.uint64(2**63)
    assert abs(drawn[trains].mean() - drawn[~trains].mean()) < 0.02


def test_an_order_that_was_stopped_anywhere_is_made_again_with_the_same_bytes(
    many_indexed: ScoredCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_parts, "_PART_ROWS", 64)
    storage, rank_key = many_indexed.storage, by_hash(many_indexed.plan, 5)

    def files(folder: str) -> dict[str, bytes]:
        return {file.path.removeprefix(folder): storage.read_bytes(file.path) for file in storage.files(folder)}

    beats: list[None] = []
    write_order(storage, "job", "whole", rank_key, lambda: beats.append(None))
    expected = files("whole")
    assert len(beats) > 10

    class Stopped(Exception):
        pass

    for last in range(0, len(beats), 4):
        left = count(last, -1)

        def beat(left: "count[int]" = left) -> None:
            if next(left) == 0:
                raise Stopped

        with pytest.raises(Stopped):
            write_order(storage, "job", "stopped", rank_key, beat)
        assert not storage.exists("stopped/ranks/ranks.json")
        write_order(storage, "job", f"again-{last}", rank_key, lambda: None)
        assert files(f"again-{last}") == expected
    write_order(storage, "job", "stopped", rank_key, lambda: None)
    assert files("stopped") == expected


def test_marks_at_any_step_count_the_same(many_indexed: ScoredCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SelectionSpec(criterion="random", rate=0.37, seed=9)
    found = []
    for step in (10**6, 17, 1):
        monkeypatch.setattr(domain_marks, "STEP", step)
        folder = f"step-{step}"
        write_order(many_indexed.storage, "job", folder, by_hash(many_indexed.plan, 9), lambda: None)
        found.append(read_index(many_indexed.storage, folder).preview(spec))
    assert found[0] == found[1] == found[2]


def test_a_manifest_says_its_order_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_writer, "GROUP_ROWS", 16)
    scored = scored_corpus(tmp_path)
    scored.index(split=SPLIT)
    for spec in (SelectionSpec(criterion="random", seed=4), SelectionSpec(criterion="high", per="byte")):
        make(scored, spec)
        metadata = scored.table(f"made/{spec.id}/manifest.parquet").schema.metadata
        assert json.loads(metadata[b"winnow"]) == {"selection": spec.model_dump(), "percentile": "exact"}
        assert SelectionSpec.model_validate(json.loads(metadata[b"winnow"])["selection"]) == spec
