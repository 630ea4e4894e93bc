"""The statistics of ablations: quantiles, intervals that cover, false wins that are rare, and recommendations."""

import math
from typing import Literal

import numpy as np
import pytest

from pruner.ablation.compare import SHARES, Arm, Comparison, Items, Run, RunKey
from pruner.ablation.recommend import Conditions, is_clear, recommend
from pruner.ablation.result import Interval
from pruner.ablation.statistics import Measure, drawn_share, paired_difference, run_noise, steps_to_baseline
from pruner.ablation.student import quantile, two_sided

CONDITIONS = Conditions("nano proxies", 400_000)
ITEMS = 40


@pytest.mark.parametrize(
    ("confidence", "df", "expected"), [(0.95, 2, 4.302653), (0.95, 4.5, 2.659), (0.95, 30, 2.042272), (0.8, 1, 3.0777)]
)
def test_quantiles_of_students_t(confidence: float, df: float, expected: float) -> None:
    assert quantile(confidence, df) == pytest.approx(expected, abs=5e-4)
    assert two_sided(quantile(confidence, df), df) == pytest.approx(1 - confidence)


def test_steps_to_the_baselines_end() -> None:
    assert steps_to_baseline(SHARES, [3.0, 2.5, 2.0], 2.0) == 1
    assert steps_to_baseline(SHARES, [3.0, 2.5, 2.0], 2.25) == pytest.approx(math.sqrt(2))
    assert steps_to_baseline(SHARES, [3.0, 2.5, 2.0], 3.5) == 4  # as good at the first look: a lower bound
    assert steps_to_baseline(SHARES, [3.0, 2.5, 2.0], 1.9) is None


def test_an_interval_is_paired_by_seed_and_counts_items() -> None:
    draw = np.random.default_rng(0)
    size = draw.uniform(500, 2_000, ITEMS)
    measure = Measure(np.zeros(ITEMS, int), size)
    by_seed = draw.normal(0, 1, (5, 1)) * size  # what both arms share, seed by seed
    arm, other = by_seed + 0.99 * size, by_seed + 1.01 * size
    values = {
        (name, seed): float(measure.value(of[seed])) for name, of in (("a", arm), ("b", other)) for seed in range(5)
    }
    noise = run_noise(values, {})
    assert noise.freedom == 4
    found = paired_difference(measure, arm, other, noise)
    assert found.value == pytest.approx(-0.02)
    assert found.half_width() == pytest.approx(0, abs=1e-9)
    varied = paired_difference(measure, arm + draw.normal(0, 0.2, ITEMS) * size, other, noise)
    assert 0.03 < (varied.half_width() or 0) < 0.12  # 2.02 * 0.2 / sqrt(40), by items alone
    one = run_noise({key: value for key, value in values.items() if key[1] == 0}, {})
    assert paired_difference(measure, arm[:1], other[:1], one).half_width() is None


def test_the_noise_of_runs_is_that_of_a_paired_test_for_two_arms_and_steadier_with_more() -> None:
    draw = np.random.default_rng(0)
    values = {(arm, seed): float(draw.normal()) for arm in ("all", "low", "random") for seed in range(4)}
    two = {key: value for key, value in values.items() if key[0] != "low"}
    differences = [two["all", seed] - two["random", seed] for seed in range(4)]
    assert run_noise(two, {}) == pytest.approx((np.var(differences, ddof=1) / 2, 3))
    assert run_noise(values, {}).freedom == 6
    shifted = {(arm, seed): value + 5 * seed + (arm == "low") for (arm, seed), value in values.items()}
    assert run_noise(shifted, {}).variance == pytest.approx(run_noise(values, {}).variance)
    further = values | {("all", 4): 0.0, ("low", 4): 1.0}  # more seeds of some arms alone
    assert run_noise(further, {}).freedom == 7


def items() -> Items:
    zeros = np.zeros(ITEMS)
    return Items(["web"] * ITEMS, zeros > 0, zeros + 1_000, zeros.astype(int), zeros > 0)


def experiment(
    draw: np.random.Generator, seeds: int, passes: float, effect: float = 0.0, selections: int = 2
) -> Comparison:
    """Losses of `all`, a random half and some halves that are not better than random ones but for `effect`.

    A run's loss has noise of its start, common to a seed, and of the documents that it reads: of a selection, `passes`
    of this is the same in all seeds, as they read the same documents.
    """
    roles: list[tuple[str, Literal["all", "random", "selection"]]] = [("all", "all"), ("random-0.5", "random")]
    arms = [Arm(name, role, 500, 0.5) for name, role in roles]
    arms += [Arm(f"s{number}", "selection", 500, 0.5, "random-0.5") for number in range(selections)]
    starts, of_items = draw.normal(0, 0.02, seeds), draw.normal(0, 0.3, ITEMS)
    runs = {}
    for arm in arms:
        own, own_items = draw.normal(0, 0.01), draw.normal(0, 0.01, ITEMS)
        fixed = passes * 0.5 if arm.role == "selection" else 0.0  # half of the pool's variance: it is half of the pool
        for seed in range(seeds):
            data = math.sqrt(fixed) * own + math.sqrt(1 - fixed) * draw.normal(0, 0.01)
            better = effect if arm.name == "s0" else 0.0
            loss = 2 + starts[seed] + data - better + of_items + own_items + draw.normal(0, 0.01, ITEMS)
            bits = np.stack([1_000 * (loss + late) for late in (0.5, 0.2, 0.0)])
            runs[RunKey(arm.name, seed)] = Run(bits, bits < 0, (100, 200, 400), 1, passes)
    return Comparison(arms, items(), runs, "heldout")


@pytest.mark.parametrize(("seeds", "passes", "selections"), [(3, 0.3, 1), (3, 1.0, 5), (5, 1.0, 2), (3, 1.0, 12)])
def test_of_a_thousand_experiments_without_a_difference_few_have_a_win(
    seeds: int, passes: float, selections: int
) -> None:
    draw = np.random.default_rng(seeds)
    wins = apart = 0
    for _ in range(1_000):
        found = experiment(draw, seeds, passes, selections=selections)
        wins += any(is_clear(found, arm, 1) for arm in found.ranked())
        difference = found.difference("random-0.5", "all")
        apart += abs(difference.value) > (difference.half_width() or 0)
    assert wins <= 50
    assert apart <= 70  # the interval of a single pair covers as it should: 50 are expected


def test_a_difference_is_found_and_said_with_its_conditions() -> None:
    found = experiment(np.random.default_rng(1), 3, 0.5, effect=0.2)
    said = recommend(found, CONDITIONS)
    assert said.selection == "s0"
    for part in ("0.2", "3 paired seeds", "nano proxies", "400,000 tokens", "passes"):
        assert part in said.text
    results = {arm.name: arm for arm in found.results({})}
    assert results["s0"].difference.high is not None
    assert results["s0"].difference.high < 0 < (results["s0"].steps_to_baseline or 0) - 1
    assert results["all"].difference == Interval(value=0, low=0, high=0)  # paired with itself
    assert results["all"].differences == {"web": Interval(value=0, low=0, high=0)}
    assert results["all"].steps_to_baseline == 1
    assert results["s0"].heldout == {"all": results["s0"].value, "web": results["s0"].value}


def test_an_interval_is_that_of_a_plain_computation() -> None:
    found = experiment(np.random.default_rng(4), 3, 1.0)
    said = {arm.name: arm for arm in found.results({})}["s0"].difference
    assert said.low is not None
    assert said.high is not None
    values = {key: float(run.bits[-1].sum()) / (1_000 * ITEMS) for key, run in found.runs.items()}
    differences = [values[RunKey("s0", seed)] - values[RunKey("all", seed)] for seed in range(3)]
    assert said.value == pytest.approx(sum(differences) / 3)
    assert (said.low + said.high) / 2 == pytest.approx(said.value)
    by_item = np.mean(
        [found.runs[RunKey("s0", seed)].bits[-1] - found.runs[RunKey("all", seed)].bits[-1] for seed in range(3)], 0
    )
    of_items = quantile(0.95, ITEMS - 1) ** 2 * np.var(by_item / 1_000, ddof=1) / ITEMS
    # a selection that is read whole, half of the documents, owes half of the noise of a run to its draw
    noise = run_noise({tuple(key)[:2]: value for key, value in values.items()}, {"s0": 0.5, "s1": 0.5})
    of_runs = quantile(0.95, 6) ** 2 * noise.variance * (1 / 3 + 0.5 / 3 + 0.5)
    assert (said.high - said.low) / 2 == pytest.approx(math.sqrt(of_runs + of_items))


def test_of_one_document_there_is_no_interval() -> None:
    found = experiment(np.random.default_rng(1), 3, 0.5, effect=0.2)
    named = np.arange(ITEMS) == 0
    one = Items(["web"] * ITEMS, ~named & named, np.full(ITEMS, 1_000.0), np.zeros(ITEMS, int), named)
    alone = Comparison(found.arms, one, found.runs, "heldout")
    assert alone.results({})[-1].difference.low is None
    said = recommend(alone, CONDITIONS)
    assert said.selection is None
    assert "one held-out document" in said.text


def test_without_a_difference_the_smallest_that_could_be_shown_is_said() -> None:
    found = experiment(np.random.default_rng(2), 3, 0.5)
    said = recommend(found, CONDITIONS)
    assert said.selection is None
    assert f"{found.noise().detectable:.4f}" in said.text
    assert recommend(experiment(np.random.default_rng(2), 1, 0.5, effect=1), CONDITIONS).selection is None


def test_a_selection_that_passes_only_at_the_level_of_a_single_look_is_said_so() -> None:
    found = experiment(np.random.default_rng(1), 3, 0.5, effect=0.2)
    best = found.ranked()[0]
    assert is_clear(found, best, 1)
    said = recommend(found, CONDITIONS, looks=10**12)
    assert said.selection is None
    assert "s0 passes at 95 %, and not at the stricter level" in said.text


def test_an_order_that_flips_at_another_learning_rate_is_no_recommendation() -> None:
    found = experiment(np.random.default_rng(3), 3, 0.5, effect=0.2)
    for arm, loss in (("s0", 2_400.0), ("all", 2_300.0)):
        bits = np.full((3, ITEMS), loss)
        found.runs[RunKey(arm, 0, 0.25)] = Run(bits, bits < 0, (100, 200, 400), 1, 0.5)  # type: ignore[index]
    said = recommend(found, CONDITIONS)
    assert said.selection is None
    assert "learning rate" in said.text


def test_the_share_of_the_draw_grows_with_what_is_read_and_falls_with_the_rate() -> None:
    assert drawn_share(0.0, 0.5) == 0
    assert drawn_share(1.0, 0.5) == 0.5
    assert drawn_share(0.5, 0.9) < drawn_share(0.5, 0.5) < 0.5
    draw = np.random.default_rng(1)
    values = {(arm, seed): float(draw.normal()) for arm in ("all", "low", "random") for seed in range(4)}
    assert run_noise(values, {"low": 0.5}).variance > run_noise(values, {}).variance
