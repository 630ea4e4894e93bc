"""What the tests of kernels share, on a CPU and on a GPU: inputs, exact results, distances."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor


def relative(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to that of what is expected."""
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@contextmanager
def poisoned() -> Iterator[None]:
    """Whatever torch.empty hands out is full of NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def exact_nll(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """What `token_nll` computes, of whole logits in float64."""
    logits = hidden.double() @ weight.double().T
    logits = scale * (logits if bias is None else logits + bias.double())
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits, targets, reduction="none")


def attention_inputs(
    lengths: list[int], heads: int, shared: int, width: int, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as slices of one fused projection."""
    torch.manual_seed(0)
    keys = heads // shared
    fused = torch.randn(sum(lengths), heads + 2 * keys, width, device=device).to(dtype)
    q, k, v = fused.split((heads, keys, keys), dim=1)
    return q, k, v
