"""The head of a causal LM of transformers: hidden states to the NLL of tokens, in the quickest way that is exact."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.nll import token_nll
from kernels.pack import IGNORED

_LOGITS = 1 << 24  # logits that OwnHead holds at a time: 64 MiB in float32
_LOUD = 1024.0  # factor on hidden states that makes a soft cap on logits visible

Head = Callable[[Tensor, Tensor], Tensor]
Same = Callable[[Tensor, Tensor], bool]


class LinearHead:
    """Logits are a matrix product, scaled and capped as the config says. They are never all in memory."""

    def __init__(self, linear: nn.Linear, scale: float, softcap: float | None) -> None:
        self.linear, self.scale, self.softcap = linear, scale, softcap

    def __call__(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden [N, D], targets [N] int64 -> NLL [N] float32, 0 where a target is -100."""
        weight, bias = self.linear.weight, self.linear.bias
        return token_nll(hidden, weight, targets, bias, scale=self.scale, softcap=self.softcap)

    def logits(self, hidden: Tensor) -> Tensor:
        """The logits: hidden [..., D] -> [..., V]."""
        logits: Tensor = self.linear(hidden) * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


class OwnHead:
    """The model's own forward pass from hidden states to logits, for some positions at a time."""

    def __init__(self, logits: Callable[[Tensor], Tensor], vocabulary: int) -> None:
        self._logits, self._step = logits, max(1, _LOGITS // vocabulary)

    def __call__(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden [N, D], targets [N] int64 -> NLL [N] float32, 0 where a target is -100."""
        # Allocated whole: small arrays between the large ones would keep the allocator from reusing memory.
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), self._step):
            rows = slice(start, start + self._step)
            nll[rows] = cross_entropy(self._logits(hidden[None, rows])[0], targets[rows])
        return nll


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The NLL of targets [N] under logits [N, V]: [N] float32, 0 where a target is -100."""
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")


@torch.inference_mode()
def choose_head(model: Any, hidden: Tensor, own: Callable[[Tensor], Tensor], vocabulary: int, same: Same) -> Head:
    """The quickest head that agrees with the `own` logits of hidden [1, T, D], as they are and times _LOUD.

    Tries the scales and soft caps of transformers' models, under the names that their configs use.
    """
    linear = model.get_output_embeddings()
    if isinstance(linear, nn.Linear):
        quiet, loud = own(hidden), own(hidden * _LOUD)
        targets = quiet[0].argmin(-1)
        for scale, softcap in product(_scales(model), _caps(model)):
            head = LinearHead(linear, scale, softcap)
            alike = same(head.logits(hidden), quiet) and same(head.logits(hidden * _LOUD), loud)
            if alike and same(head(hidden[0], targets), cross_entropy(quiet[0], targets)):
                return head
    return OwnHead(own, vocabulary)


def _scales(model: Any) -> list[float]:
    config = model.config.get_text_config()
    factors = [getattr(config, name, None) or 1.0 for name in ("logit_scale", "lm_head_multiplier")]
    found = [1.0, *factors, 1.0 / (getattr(config, "logits_scaling", None) or 1.0)]
    return [float(scale) for scale in dict.fromkeys(found) if scale > 0]


def _caps(model: Any) -> list[float | None]:
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return [float(cap), None] if cap else [None]
