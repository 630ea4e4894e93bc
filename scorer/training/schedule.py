"""What follows from a training's budget: batch size, learning rate, weight decay, and the rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

_WARM_UP = 0.05  # share of the steps
_DECAY = 0.2  # share of the steps
_WEIGHT_DECAY = 0.1  # of a text that is read once
_LARGEST = 1 << 19  # tokens of a batch


@dataclass(frozen=True)
class Schedule:
    """How a budget of tokens is spent: `steps` steps of `batch` sequences, `micro` of them at a time."""

    tokens: int
    sequence: int
    batch: int
    micro: int
    steps: int
    rate: float  # factor of the recipe's learning rate
    weight_decay: float

    def factor(self, step: int, end: int | None = None) -> float:
        """The learning rate of a step, counted from 0, relative to the recipe's: warm-up, constant, linear decay.

        With `end`, that of a branch that ends after so many steps: it shares the warm-up, and decays in its last fifth
        (the WSD schedule, Hu et al., https://arxiv.org/abs/2404.06395).
        """
        end = end or self.steps
        warm = max(1, round(_WARM_UP * self.steps))
        return self.rate * min(1.0, (step + 1) / warm, (end - step) / (self.decay(end) + 1))

    def decay(self, end: int) -> int:
        """How many steps before its end a branch leaves the run."""
        return max(1, round(_DECAY * end))


def make_schedule(
    tokens: int, distinct: int, sequence: int, reference: tuple[int, int], micro: int, processes: int = 1
) -> Schedule:
    """The schedule of `tokens` tokens, of which `distinct` differ.

    `reference` is a batch in sequences and the budget in tokens that a recipe's learning rate was chosen at. The batch
    grows as the square root of the budget, to a power of two: the noise that a step bears grows as the loss falls
    (McCandlish et al., https://arxiv.org/abs/1812.06162). Under Adam the rate goes with the square root of the batch,
    and for longer trainings falls with the fourth root of the budget, so that the two cancel but for the rounding of
    the batch. Weight decay grows with the passes over a text, as repeats are learnt by heart otherwise (Fang et al.,
    https://arxiv.org/abs/2503.07879). Each of `processes` takes the same number of micro-batches.
    """
    rows, budget = reference
    growth = math.sqrt(tokens / budget)
    batch = 1 << max(0, round(math.log2(rows * growth)))
    batch = min(batch, max(rows, 1 << int(math.log2(max(1, _LARGEST // sequence)))))
    micro = max(1, min(micro, batch // processes))
    batch = -(-batch // (micro * processes)) * micro * processes
    return Schedule(
        tokens=tokens,
        sequence=sequence,
        batch=batch,
        micro=micro,
        steps=-(-tokens // (batch * sequence)),
        rate=math.sqrt(batch / (rows * growth)),
        weight_decay=_WEIGHT_DECAY * max(1.0, tokens / distinct),
    )
