"""Distributions of scores, rank correlations and overlaps of selections, against plain computations in Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner.report import _constant
from pruner.select import rank_correlation, score_columns
from pruner.select.kept_scores import count_kept
from pruner.select.manifest import Chosen
from pruner.select.score_columns import measure_scores
from pruner.select.selection_record import SelectionRecord
from pruner.spec import SelectionSpec
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable

NAMES = ["a", "b", "whole", "same"]
DOMAINS = ["x", "y", None]


def mean_ranks(values: Sequence[float]) -> np.ndarray:
    found = np.array(values, dtype=np.float64)
    below, same = found[None, :] < found[:, None], found[None, :] == found[:, None]
    return np.asarray(below.sum(axis=1) + (same.sum(axis=1) - 1) / 2)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    ranks = mean_ranks(first), mean_ranks(second)
    if len(first) < 2 or min(rank.std() for rank in ranks) == 0:
        return None
    return float(np.corrcoef(*ranks)[0, 1])


values = st.lists(st.tuples(*[st.one_of(st.just(np.nan), st.integers(-3, 3).map(float))] * 2), max_size=12)


@given(values)
@settings(max_examples=60, deadline=None)
def test_exact_correlations(rows: list[tuple[float, float]]) -> None:
    both = [row for row in rows if not np.isnan(row).any()]
    ((documents, found),) = rank_correlation.of_values(np.array(rows).reshape(-1, 2)).values()
    expected = spearman([row[0] for row in both], [row[1] for row in both])
    assert documents == len(both)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))


@given(values)
@settings(max_examples=60, deadline=None)
def test_correlations_of_counts_are_exact_for_few_values(rows: list[tuple[float, float]]) -> None:
    both = [row for row in rows if not np.isnan(row).any()]
    counts = np.zeros((7, 7), dtype=np.int64)
    for first, second in both:
        counts[int(first) + 3, int(second) + 3] += 1
    expected = spearman([row[0] for row in both], [row[1] for row in both])
    assert rank_correlation.of_counts(counts) == (
        len(both),
        None if expected is None else pytest.approx(expected, abs=1e-12),
    )


def write_table(folder: Path, rows: int) -> tuple[StoredTable, pa.Table]:
    """A table of scores whose score `b` follows `a` in one domain and opposes it in another."""
    draw = np.random.default_rng(1)
    a = draw.normal(size=rows)
    domain = draw.integers(0, 3, rows)
    b = np.exp(np.where(domain == 1, -a, a) + draw.normal(size=rows) * 0.3)
    table = pa.table(
        {
            "a": pa.array(a, mask=draw.random(rows) < 0.1),
            "b": b,
            "whole": draw.integers(0, 6, rows),
            "same": np.where(draw.random(rows) < 0.97, 0.5, draw.random(rows)),
            "n_tokens": draw.integers(1, 90, rows),
            "domain": pa.array([DOMAINS[code] for code in domain], pa.string()),
            "training": draw.random(rows) < 0.1,
            "reject": pa.array(["empty text" if each < 0.05 else None for each in draw.random(rows)], pa.string()),
        }
    )
    pq.write_table(table, folder / "scores.parquet", row_group_size=100)
    return StoredTable(Storage(str(folder)), "scores.parquet"), table


@pytest.mark.parametrize("most", [score_columns.EXACT_MAX, 300])
def test_scores_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("pruner.tables.parquet_parts._PART_ROWS", 250)
    monkeypatch.setattr(score_columns, "EXACT_MAX", most)
    stored, table = write_table(tmp_path, 1200)
    found = measure_scores(stored, NAMES, DOMAINS, lambda: None)
    rows = [row for row in table.to_pylist() if row["reject"] is None and not row["training"]]
    exact = most > 300
    assert found.correlations.method == ("exact" if exact else "histograms")
    assert (found.correlations.bins is None) == exact
    for score in found.scores:
        own = sorted(row[score.name] for row in rows if row[score.name] is not None)
        assert (score.documents, score.minimum, score.maximum) == (len(own), own[0], own[-1])
        assert score.nearly_constant == (score.name == "same")
        if exact:
            assert score.quantiles["50"] == own[-(-len(own) // 2) - 1]
        assert score.edges == sorted(set(score.edges))
    assert {score.name: score.scale for score in found.scores} == dict.fromkeys(NAMES, "linear") | {"b": "log"}
    assert found.scores[2].edges == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    assert [pair.scores for pair in found.correlations.pairs] == [
        (first, second) for at, first in enumerate(NAMES) for second in NAMES[at + 1 :]
    ]
    for pair in found.correlations.pairs:
        first, second = pair.scores
        both = [row for row in rows if None not in (row[first], row[second])]
        for domain in (*DOMAINS, ...):
            inside = [row for row in both if domain is ... or row["domain"] == domain]
            expected = spearman([row[first] for row in inside], [row[second] for row in inside])
            made: Any = pair if domain is ... else next(each for each in pair.domains if each.domain == domain)
            assert made.documents == len(inside)
            assert made.rank_correlation == pytest.approx(expected, abs=1e-12 if exact else 0.05)
    follows, opposes = (domain.rank_correlation or 0 for domain in found.correlations.pairs[0].domains[:2])
    assert opposes < -0.8 < 0.8 < follows  # type: ignore[operator]


def test_what_selections_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pruner.tables.parquet_parts._PART_ROWS", 250)
    monkeypatch.setattr("pruner.select.kept_scores._ROWS", 70)
    stored, table = write_table(tmp_path, 1200)
    rows = table.to_pylist()
    there = np.array([row["reject"] is None and not row["training"] for row in rows])
    masks = {name: there & np.array([row["whole"] in kept for row in rows]) for name, kept in KEPT.items()}
    records = [
        SelectionRecord(
            spec=SelectionSpec(name=name),
            documents=int(mask.sum()),
            tokens=sum(row["n_tokens"] for row, is_kept in zip(rows, mask, strict=True) if is_kept),
            perplexity_min=None,
            perplexity_max=None,
            start=None,
            stop=None,
            domains=[],
            files={},
        )
        for name, mask in masks.items()
    ]
    chosen = [
        Chosen(int(mask.sum()), lambda start, stop, mask=mask: (mask[start:stop], np.empty(0)))  # type: ignore[misc]
        for mask in masks.values()
    ]
    tokens = sum(row["n_tokens"] for row, is_there in zip(rows, there, strict=True) if is_there)
    measured = measure_scores(stored, NAMES, DOMAINS, lambda: None).scores
    eligible = int(there.sum()), tokens
    found = count_kept(stored, measured, list(zip(records, chosen, strict=True)), eligible, lambda: None)
    whole = found.scores[2]
    of = [[row for row, is_there in zip(rows, there, strict=True) if is_there and row["whole"] == n] for n in range(6)]
    assert whole.bin_documents == [len(each) for each in of]
    assert whole.bin_tokens == [sum(row["n_tokens"] for row in each) for each in of]
    assert whole.bin_kept == {
        name: [len(each) if n in kept else 0 for n, each in enumerate(of)] for name, kept in KEPT.items()
    }
    assert found.scores[0].lacking == sum(row["a"] is None for row, is_ in zip(rows, there, strict=True) if is_) > 0
    overlaps = {overlap.selections: overlap for overlap in found.overlaps}
    low, other, nothing = (overlaps[pair] for pair in (("low", "high"), ("low", "nothing"), ("high", "nothing")))
    common = masks["low"] & masks["high"]
    assert low.documents == common.sum() > 0
    assert low.tokens == sum(row["n_tokens"] for row, is_ in zip(rows, common, strict=True) if is_)
    assert low.documents_of_smaller == low.documents / min(records[0].documents, records[1].documents)
    assert low.tokens_of_all == low.tokens / tokens
    assert (other.documents, other.documents_of_smaller) == (0, None)
    assert nothing.documents_of_all == 0
    assert "same" in _constant(found.scores)[0]
    assert _constant(found.scores[:3]) == []


KEPT: dict[str, set[int]] = {
    "low": {0, 1, 2},
    "high": {2, 3},
    "nothing": set(),
    **{f"only-{n}": {n} for n in range(6)},  # more than are counted together
}
