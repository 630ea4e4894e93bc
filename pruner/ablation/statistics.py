"""Paired differences between arms, with 95 % intervals over seeds and items, and the steps to a baseline's end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    """An arm minus another in a measure: negative is better. With one seed there is no interval."""

    value: float
    seed_variance: float  # of the value
    item_variance: float
    seeds: int
    items: int

    def half_width(self, confidence: float = CONFIDENCE) -> float | None:
        """Half of the interval at a confidence; the smallest difference that would have been off zero.

        Each variance has a half-width of its own, by Student's t; they add up as squares, as they are independent.
        """
        if self.seeds < 2:
            return None
        of_seeds = quantile(confidence, self.seeds - 1) ** 2 * self.seed_variance
        of_items = quantile(confidence, self.items - 1) ** 2 * self.item_variance if self.items > 1 else 0.0
        return math.sqrt(of_seeds + of_items)

    def is_better(self, confidence: float = CONFIDENCE) -> bool:
        """Whether the interval is below zero."""
        half = self.half_width(confidence)
        return half is not None and self.value + half < 0


def paired_difference(measure: Measure, arm: np.ndarray, other: np.ndarray, drawn: float = 0.0) -> Difference:
    """The mean over seeds of arm - other, both float64 [seeds, items], row for row of the same seed.

    The interval counts the spread over seeds and over items. `drawn` is the part of a seed's variance that is due to
    the documents that a selection happens to keep, and is the same in all seeds: more seeds do not bring the variance
    of the value below it (see `share_of_draw`).
    """
    by_seed = measure.value(arm) - measure.value(other)
    seeds, items = len(by_seed), arm.shape[1]
    spread = float(by_seed.var(ddof=1)) if seeds > 1 else 0.0
    of_items = measure.item_variance((arm - other).mean(0))
    return Difference(float(by_seed.mean()), spread * max(1 / seeds, drawn), of_items, seeds, items)


def share_of_draw(read: float, rate: float) -> float:
    """The part of a paired difference's variance that a selection owes to the documents that it happens to keep.

    A selection is one draw of documents, so its runs read other documents only as far as each reads a part of it:
    `read`, at most 1. Take a random draw of `rate` of the documents, and let a run, as one of the arm that it is
    compared with, vary by v with the documents that it reads: read · (1 - rate) · v is common to all seeds, and each
    seed adds (2 - read) · v, at least.
    """
    return read * (1 - rate) / (2 - read)


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
