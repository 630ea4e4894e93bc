"""Bands are exact: they equal those of a plain sort and a plain loop, ties included."""

from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruner.ranks import bands
from pruner.ranks.bands import band
from pruner.spec import SelectionSpec
from tests.pruner.oracle import select

RATES = st.one_of(
    st.sampled_from([0.5, 0.25, 0.1, 0.145, 0.15, 1.0, 1e-9, 0.333]), st.floats(0, 1, exclude_min=True, width=32)
)
CRITERIA = st.sampled_from(["low", "medium", "high"])
# Few different values, so that ties are heavy; n_tokens is a power of two so that quotients tie exactly.
DOCUMENTS = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([1, 2, 4]), st.integers(0, 2)), min_size=1, max_size=40
)


def plain(ranks: list[int], tokens: list[int], criterion: str, unit: str, rate: float) -> tuple[int, int]:
    """The band [start, stop) among documents in rank order, by the contract's words."""
    n, exact = len(ranks), Decimal(repr(rate))
    if unit == "documents":
        k = int((exact * n).quantize(Decimal(1), ROUND_HALF_UP))
        return {"low": (0, k), "medium": ((n - k) // 2, (n - k) // 2 + k), "high": (n - k, n)}[criterion]
    sizes = [tokens[i] for i in ranks]
    total = sum(sizes)
    budget = Fraction(exact) * total

    def fits(start: int, stop: int) -> bool:
        return start >= 0 and stop <= n and sum(sizes[start:stop]) <= budget

    if criterion == "low":
        return 0, max(stop for stop in range(n + 1) if fits(0, stop))
    if criterion == "high":
        return min(start for start in range(n + 1) if fits(start, n)), n
    start = stop = next(i for i in range(n) if 2 * sum(sizes[: i + 1]) > total)
    while True:
        steps = [(start - 1, stop), (start, stop + 1)]
        if sum(sizes[:start]) < sum(sizes[stop:]):
            steps.reverse()
        band = next((band for band in steps if fits(*band)), None)
        if band is None:
            return start, stop
        start, stop = band


@pytest.mark.parametrize("criterion", ["low", "medium", "high", "random"])
@pytest.mark.parametrize("unit", ["documents", "tokens"])
def test_of_no_documents_none_are_kept(criterion: Any, unit: Any) -> None:
    assert band(np.array([5]), SelectionSpec(criterion=criterion, unit=unit)) == (0, 0)


@given(DOCUMENTS, CRITERIA, RATES, st.sampled_from(["documents", "tokens"]), st.sampled_from([None, "domain"]))
@example([(0, 1, 0)], "medium", 1e-9, "tokens", None)
@example([(0, 1, 0)] * 7, "medium", 0.5, "tokens", "domain")
@example([(0, 4, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0)], "medium", 0.5, "tokens", None)
def test_selections_are_those_of_a_plain_sort(
    documents: list[tuple[int, int, int]], criterion: Any, rate: float, unit: Any, within: Any
) -> None:
    spec = SelectionSpec(criterion=criterion, rate=rate, unit=unit, within=within)
    nll = [float(value) for value, _, _ in documents]
    tokens = [count for _, count, _ in documents]
    groups = [domain if within else 0 for _, _, domain in documents]
    expected = {}
    for group in set(groups):
        members = [i for i in range(len(documents)) if groups[i] == group]
        ranks = sorted(members, key=lambda i: (nll[i] / tokens[i], i))
        start, stop = plain(ranks, tokens, criterion, unit, rate)
        expected |= {ranks[rank]: 100 * rank / len(ranks) for rank in range(start, stop)}
    found = select(np.array(nll), np.array(tokens), spec, np.array([d for _, _, d in documents]))
    assert found.kept.tolist() == sorted(expected)
    assert found.percentile.tolist() == pytest.approx([expected[i] for i in sorted(expected)])


@given(DOCUMENTS, CRITERIA, RATES)
def test_a_run_of_tokens_is_within_budget_and_cannot_grow(
    documents: list[tuple[int, int, int]], criterion: Any, rate: float
) -> None:
    nll, tokens = np.array([float(v) for v, _, _ in documents]), np.array([t for _, t, _ in documents])
    kept = select(nll, tokens, SelectionSpec(criterion=criterion, rate=rate, unit="tokens")).kept
    order = np.argsort(nll / tokens, kind="stable").tolist()
    budget = Fraction(repr(rate)) * int(tokens.sum())
    ranks = sorted(order.index(i) for i in kept)
    assert tokens[kept].sum() <= budget
    assert ranks == list(range(ranks[0], ranks[0] + len(ranks))) if ranks else True
    if ranks:
        neighbours = {"low": [ranks[-1] + 1], "high": [ranks[0] - 1], "medium": [ranks[0] - 1, ranks[-1] + 1]}[
            criterion
        ]
        for rank in neighbours:
            if 0 <= rank < len(order):
                assert tokens[kept].sum() + tokens[order[rank]] > budget


@given(
    st.lists(st.sampled_from([0, 0, 1, 1, 2, 5, 100]), min_size=1, max_size=60),
    st.one_of(RATES, st.sampled_from([0.99, 0.999])),
    st.integers(1, 4),
)
@example([0, 1, 2, 1, 1, 1, 2, 0, 0], 0.8, 1)
def test_a_medium_run_is_found_from_a_few_documents_around_its_ends(tokens: list[int], rate: float, near: int) -> None:
    below = np.concatenate([[7], 7 + np.cumsum(tokens)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "_NEAR", near)
        found = band(below, SelectionSpec(rate=rate, unit="tokens"))
    if any(tokens):
        assert found == plain(list(range(len(tokens))), tokens, "medium", "tokens", rate)


def test_a_medium_run_of_tokens_is_centred() -> None:
    rng = np.random.default_rng(0)
    nll, tokens = rng.random(10_000) * 5, rng.integers(1, 500, 10_000)
    kept = select(nll * tokens, tokens, SelectionSpec(rate=0.3, unit="tokens")).kept
    order = np.argsort(nll, kind="stable")
    ranks = np.flatnonzero(np.isin(order, kept))
    below, above = tokens[order[: ranks[0]]].sum(), tokens[order[ranks[-1] + 1 :]].sum()
    assert abs(int(below) - int(above)) <= 1000
    assert 0.3 * tokens.sum() - tokens[kept].sum() < 500


@pytest.mark.parametrize("criterion", ["low", "medium", "high"])
@pytest.mark.parametrize("unit", ["documents", "tokens"])
def test_rate_one_keeps_everything(criterion: Any, unit: Any) -> None:
    spec = SelectionSpec(criterion=criterion, rate=1, unit=unit)
    assert select(np.array([3.0, 1, 2]), np.array([1, 5, 2]), spec).kept.tolist() == [0, 1, 2]


def test_medium_is_the_percentile_band_of_the_paper() -> None:
    nll = np.random.default_rng(1).permutation(1000) + 1.0
    found = select(nll, np.ones(1000, dtype=np.int64), SelectionSpec(criterion="medium", rate=0.5))
    assert (found.percentile.min(), found.percentile.max()) == (25.0, 74.9)


def test_rates_are_the_decimals_that_were_written() -> None:
    # 0.145 in binary is a little less: 100 documents would round to 14.
    spec = SelectionSpec(criterion="low", rate=0.145)
    assert len(select(np.arange(100.0), np.ones(100, dtype=np.int64), spec).kept) == 15


def test_ids_of_selections() -> None:
    specs = [
        SelectionSpec(),
        SelectionSpec(criterion="low", rate=1),
        SelectionSpec(criterion="high", rate=0.25, unit="tokens", within="domain"),
    ]
    assert [spec.id for spec in specs] == ["medium-0.5", "low-1", "high-0.25-tokens-domain"]
    specs = [
        SelectionSpec(criterion="low", rate=0.25, per="byte"),
        SelectionSpec(criterion="high", rate=0.25, unit="tokens", within="domain", per="byte"),
        SelectionSpec(criterion="random"),
        SelectionSpec(criterion="random", seed=0),
        SelectionSpec(criterion="random", unit="tokens", seed=3),
    ]
    assert [spec.id for spec in specs] == [
        "low-0.25-byte",
        "high-0.25-tokens-domain-byte",
        "random-0.5",
        "random-0.5",
        "random-0.5-tokens-seed3",
    ]
    assert specs[2] == specs[3]


def test_the_order_and_the_seed_are_stored_only_where_they_are_given() -> None:
    plain = {"criterion": "medium", "rate": 0.5, "unit": "documents", "within": None}
    assert SelectionSpec().model_dump() == SelectionSpec(per=None, seed=None).model_dump() == plain
    assert SelectionSpec(per="byte").model_dump() == plain | {"per": "byte"}
    drawn = SelectionSpec.model_validate({"criterion": "random", "rate": 0.5, "seed": None})
    assert drawn.model_dump() == plain | {"criterion": "random", "seed": 0}
    for spec in (SelectionSpec(), SelectionSpec(per="byte"), drawn):
        assert SelectionSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"criterion": "random", "per": "byte"}, "leave out 'per'"),
        ({"criterion": "low", "seed": 0}, "leave out 'seed'"),
        ({"seed": 1}, "leave out 'seed'"),
        ({"criterion": "random", "seed": -1}, "greater than or equal to 0"),
        ({"criterion": "random", "seed": 2**63}, "less than"),
        ({"criterion": "random", "seed": 1.0}, "valid integer"),
        ({"criterion": "random", "seed": True}, "valid integer"),
        ({"per": "token"}, "'byte'"),
    ],
)
def test_an_order_that_does_not_fit_the_criterion_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SelectionSpec.model_validate(fields)
