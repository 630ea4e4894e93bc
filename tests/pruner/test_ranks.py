"""Cuts found by counters keep what a plain sort keeps, whatever the parts, threads and bits of the keys."""

import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pruner.ranks import cells, coarse, runs, search
from pruner.ranks.coarse import CoarseRanks
from pruner.ranks.cuts import find_cuts
from pruner.ranks.exact import ExactRanks
from pruner.ranks.parts import RankedRows, Workers
from pruner.ranks.scratch import KeptRanking
from pruner.ranks.search import count
from pruner.ranks.sort_keys import float_of, ordered_bits
from pruner.spec import SelectionSpec
from tests.pruner.oracle import select

RATES = st.one_of(
    st.sampled_from([0.5, 0.25, 0.1, 0.145, 1.0, 1e-9, 0.333]), st.floats(0, 1, exclude_min=True, width=32)
)
SPECS = st.tuples(st.sampled_from(["low", "medium", "high"]), RATES, st.sampled_from(["documents", "tokens"]))
# Heavy ties, keys that differ in the last bits alone, and keys that differ in the first.
KEYS = st.sampled_from([0.0, 1.0, 1.0 + 2**-52, 1.0 + 2**-30, 1.5, -1.0, 3e300, float("inf")])
DOCUMENTS = st.lists(st.tuples(KEYS, st.sampled_from([0, 1, 2, 7, 60]), st.integers(0, 2)), min_size=1, max_size=60)


class Parts:
    """A ranking of documents in memory, in parts of some rows, each part with a row that is not ranked."""

    def __init__(self, key: np.ndarray, tokens: np.ndarray, group: np.ndarray | None, size: int) -> None:
        self._key, self._tokens, self._group, self._size = ordered_bits(key), tokens, group, size

    @property
    def parts(self) -> int:
        return -(-len(self._key) // self._size)

    @property
    def groups(self) -> int:
        return 1 if self._group is None else int(self._group.max()) + 1

    def read(self, part: int) -> RankedRows:
        some = slice(part * self._size, (part + 1) * self._size)
        group = None if self._group is None else self._group[some]
        row = np.arange(len(self._key[some])) + 1
        return RankedRows(row, self._key[some], group, self._tokens[some])


def kept(ranking: Parts, specs: list[SelectionSpec], threads: int = 1) -> list[tuple[np.ndarray, Any]]:
    workers = Workers(threads)
    cuts = find_cuts(count(ranking, workers), specs, workers)
    parts = [ranking.read(part) for part in range(ranking.parts)]
    return [(np.concatenate([one.kept(rows, n) for n, rows in enumerate(parts)]), one) for one in cuts]


@settings(max_examples=150)
@given(
    DOCUMENTS,
    st.lists(SPECS, min_size=1, max_size=4),
    st.sampled_from([None, "domain"]),
    st.integers(1, 25),
    st.sampled_from([0, 3, search.GATHERED_MAX]),
    st.sampled_from([0, cells._DENSE_CELLS]),
)
@example([(1.0, 0, 0)] * 3, [("medium", 0.5, "tokens")], None, 2, 0, 0)
def test_cuts_keep_what_a_plain_sort_keeps(
    documents: Any, specs: Any, within: Any, size: int, gathered: int, dense: int
) -> None:
    key, tokens, domain = (np.array(column) for column in zip(*documents, strict=True))
    made = [SelectionSpec(criterion=c, rate=rate, unit=unit, within=within) for c, rate, unit in specs]
    ranking = Parts(key, tokens, domain if within else None, size)
    with patch.object(search, "GATHERED_MAX", gathered), patch.object(cells, "_DENSE_CELLS", dense):
        found = kept(ranking, made)
    for spec, (mask, cuts) in zip(made, found, strict=True):
        expected = select(key, tokens, spec, domain, key=key)
        assert np.flatnonzero(mask).tolist() == expected.kept.tolist()
        assert cuts.documents.sum() == mask.sum()
        assert cuts.tokens.sum() == tokens[mask].sum()
        if within is None:
            assert (cuts.start.rank[0], cuts.stop.rank[0]) == (expected.start, expected.stop)


@pytest.mark.parametrize("unit", ["documents", "tokens"])
@pytest.mark.parametrize("within", [None, "domain"])
def test_cuts_of_many_documents_do_not_depend_on_parts_and_threads(unit: Any, within: Any) -> None:
    rng = np.random.default_rng(0)
    key, tokens = rng.normal(1.2, 0.3, 20_000).round(2), (rng.pareto(1.5, 20_000) * 50 + 1).astype(np.int64)
    domain = np.minimum(rng.geometric(0.3, 20_000), 9)
    specs = [
        SelectionSpec(criterion=criterion, rate=rate, unit=unit, within=within)
        for criterion in ("low", "medium", "high")
        for rate in (0.001, 0.2, 0.5, 0.9)
    ]
    for size, threads in ((7_001, 2), (311, 3)):
        found = kept(Parts(key, tokens, domain if within else None, size), specs, threads)
        for spec, (mask, _) in zip(specs, found, strict=True):
            assert np.flatnonzero(mask).tolist() == select(key, tokens, spec, domain, key=key).kept.tolist()


@settings(max_examples=100)
@given(
    DOCUMENTS,
    st.lists(SPECS, min_size=1, max_size=3),
    st.sampled_from([None, "domain"]),
    st.integers(1, 25),
    st.sampled_from([1, 4, 1 << 20]),
)
def test_exact_percentiles_are_those_of_a_plain_sort(
    documents: Any, specs: Any, within: Any, size: int, piece: int
) -> None:
    key, tokens, domain = (np.array(column) for column in zip(*documents, strict=True))
    made = [SelectionSpec(criterion=c, rate=rate, unit=unit, within=within) for c, rate, unit in specs]
    workers = Workers(2)
    ranking = KeptRanking(Parts(key, tokens, domain if within else None, size), Path(tempfile.gettempdir()))
    counted = count(ranking, workers)
    cuts = find_cuts(counted, made, workers)
    with patch.object(runs, "_PIECE", piece), patch.object(runs, "_STEP", 2):
        ranks = ExactRanks(counted, cuts, Path(tempfile.gettempdir()), workers)
    found = np.concatenate([ranks.percentiles(ranking.read(part), part) for part in range(ranking.parts)])
    ranks.close()
    ranking.close()
    expected = np.full(len(key), np.nan)
    for spec in made:
        plain = select(key, tokens, spec, domain, key=key)
        expected[plain.kept] = plain.percentile
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=100)
@given(DOCUMENTS, st.sampled_from([None, "domain"]), st.integers(1, 25), st.sampled_from([1, 3, 65_536]))
def test_coarse_percentiles_are_near_those_of_a_plain_sort(
    documents: Any, within: Any, size: int, resolution: int
) -> None:
    key, tokens, domain = (np.array(column) for column in zip(*documents, strict=True))
    workers = Workers(2)
    ranking = Parts(key, tokens, domain if within else None, size)
    with patch.object(coarse, "RESOLUTION", resolution):
        ranks = CoarseRanks(count(ranking, workers), workers)
    found = np.concatenate([ranks.percentiles(ranking.read(part), part) for part in range(ranking.parts)])
    everything = SelectionSpec(criterion="low", rate=1.0, within=within)
    error = select(key, tokens, everything, domain, key=key).percentile - found
    assert (error >= 0).all()
    assert (error * resolution < 100 + 1e-9).all()
    if resolution == 65_536:
        assert (error == 0).all()


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=20))
def test_sort_keys_of_floats_have_their_order(values: list[float]) -> None:
    given = np.array(values)
    bits = ordered_bits(given)
    assert ((given[:, None] < given) == (bits[:, None] < bits)).all()
    assert ((given[:, None] == given) == (bits[:, None] == bits)).all()
    assert (float_of(bits) == given).all()


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint64, np.bool_, np.float32])
def test_sort_keys_of_other_numbers_have_their_order(kind: Any) -> None:
    limits = [0, 1] if kind in (np.bool_, np.float32) else [np.iinfo(kind).min, 0, np.iinfo(kind).max]
    given = np.unique(np.array(limits, dtype=kind))
    assert (np.diff(ordered_bits(given).astype(object)) > 0).all()
