"""Paired differences between arms, with 95 % intervals over seeds and items, and the steps to a baseline's end."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pruner.ablation.student import quantile

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Measure:
    """How the loss on items becomes one number: the mean over groups of (sum of losses / sum of sizes).

    `group` int [items]: 0 to the number of groups - 1, each with an item. `size` float64 [items]. Of held-out
    documents all are one group, the losses are bits and the sizes bytes; of tasks each task is a group, the losses are
    bits per byte of the right answer, and each size is 1.
    """

    group: np.ndarray
    size: np.ndarray

    def of_groups(self, losses: np.ndarray) -> np.ndarray:
        """The value of each group: losses [..., items] -> [..., groups]."""
        groups = int(self.group.max()) + 1
        sums = [
            losses[..., self.group == number].sum(-1) / self.size[self.group == number].sum()
            for number in range(groups)
        ]
        return np.stack(sums, -1)

    def value(self, losses: np.ndarray) -> np.ndarray:
        """The number: losses [..., items] -> [...]."""
        return np.asarray(self.of_groups(losses).mean(-1))

    def item_variance(self, differences: np.ndarray) -> float:
        """The variance of the number because other items could have been drawn; differences [items].

        A group of one item says nothing of it and adds nothing.
        """
        means, total = self.of_groups(differences), 0.0
        for number, mean in enumerate(means):
            here = self.group == number
            count = int(here.sum())
            if count > 1:
                rest = differences[here] - mean * self.size[here]
                total += count / (count - 1) * float((rest**2).sum()) / float(self.size[here].sum()) ** 2
        return total / len(means) ** 2


@dataclass(frozen=True)
class Difference:
    """An arm minus another in a measure: negative is better. With one seed, or one item, there is no interval."""

    value: float
    seed_variance: float  # of the value
    item_variance: float
    freedom: int  # degrees of freedom of the seed variance; 0 with one seed
    items: int

    def half_width(self, confidence: float = CONFIDENCE) -> float | None:
        """Half of the interval at a confidence; the smallest difference that would have been off zero.

        Each variance has a half-width of its own, by Student's t; they add up as squares, as they are independent.
        """
        if not self.freedom or self.items < 2:
            return None
        of_seeds = quantile(confidence, self.freedom) ** 2 * self.seed_variance
        of_items = quantile(confidence, self.items - 1) ** 2 * self.item_variance
        return math.sqrt(of_seeds + of_items)

    def is_better(self, confidence: float = CONFIDENCE) -> bool:
        """Whether the interval is below zero."""
        half = self.half_width(confidence)
        return half is not None and self.value + half < 0


class RunNoise(NamedTuple):
    """The residual variance of a run that draws its documents, after the effects of arm and seed."""

    variance: float
    freedom: int  # degrees of freedom


NO_NOISE = RunNoise(0.0, 1)  # between an arm and itself


def run_noise(values: Mapping[tuple[str, int], float], drawn: Mapping[str, float]) -> RunNoise:
    """The noise of runs, from the values of all of them by (arm, seed); `drawn` as `drawn_share` gives it, by arm.

    The residual of the additive model value = arm + seed, as of a randomised block design: with three seeds and three
    arms it has four degrees of freedom, where the differences of one pair of arms have two. The residual of an arm has
    1 - `drawn` of the variance, and is weighted so.
    """
    arms = {arm: number for number, arm in enumerate(sorted({arm for arm, _ in values}))}
    seeds = {seed: len(arms) + number for number, seed in enumerate(sorted({seed for _, seed in values}))}
    design = np.zeros((len(values), len(arms) + len(seeds)))
    for row, (arm, seed) in enumerate(values):
        design[row, [arms[arm], seeds[seed]]] = 1
    weights = np.array([1 / math.sqrt(1 - drawn.get(arm, 0.0)) for arm, _ in values])
    design *= weights[:, None]
    found = np.array(list(values.values())) * weights
    fitted, _, rank, _ = np.linalg.lstsq(design, found, rcond=None)
    freedom = len(values) - int(rank)
    return RunNoise(float(((found - design @ fitted) ** 2).sum()) / freedom if freedom else 0.0, freedom)


def paired_difference(
    measure: Measure, arm: np.ndarray, other: np.ndarray, noise: RunNoise, drawn: Sequence[float] = (0.0, 0.0)
) -> Difference:
    """The mean over seeds of arm - other, both float64 [seeds, items], row for row of the same seed.

    The interval counts the noise of runs and the spread over items. `drawn` are the shares of the noise of each arm
    that are the same in all seeds (see `drawn_share`): more seeds do not make them smaller.
    """
    by_seed = measure.value(arm) - measure.value(other)
    seeds, items = len(by_seed), arm.shape[1]
    of_seeds = noise.variance * sum((1 - share) / seeds + share for share in drawn)
    of_items = measure.item_variance((arm - other).mean(0))
    return Difference(float(by_seed.mean()), of_seeds, of_items, noise.freedom if seeds > 1 else 0, items)


def drawn_share(read: float, rate: float) -> float:
    """The share of a run's noise that a selection owes to the documents that it happens to keep, at most.

    A selection is one draw of documents, so its runs read other documents only as far as each reads a part of it:
    `read`, at most 1. Take a random draw of `rate` of the documents, and let all noise of a run be that of the
    documents that it reads: read · (1 - rate) of its variance is common to all seeds.
    """
    return read * (1 - rate)


def detectable(differences: Sequence[Difference]) -> float | None:
    """The smallest difference that would have been off zero: the median of the half-widths."""
    widths = [width for found in differences if (width := found.half_width()) is not None]
    return float(np.median(widths)) if widths else None


def steps_to_baseline(shares: Sequence[float], arm: Sequence[float], baseline: float) -> float | None:
    """Steps of the baseline to its end, divided by the steps of the arm to the same value; None if it never gets there.

    `arm` has the loss after each of `shares` of the steps, ascending, the last one 1. Between two of them the loss is
    linear in the logarithm of the steps. Where the first one is as good already, its ratio is given, a lower bound.
    """
    for number, loss in enumerate(arm):
        if loss <= baseline:
            if number == 0 or arm[number - 1] <= loss:
                return 1 / shares[number]
            before = arm[number - 1]
            part = (before - baseline) / (before - loss)
            first, last = math.log(shares[number - 1]), math.log(shares[number])
            return math.exp(-(first + part * (last - first)))
    return None
