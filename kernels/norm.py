"""Root-mean-square norms: plain, and gated as at the end of a Mamba-2 mixer."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _wide(x: Tensor) -> Tensor:
    """`x` in float32, or as it is where that is wider already."""
    return x if x.dtype == torch.float64 else x.float()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last axis (Zhang and Sennrich, https://arxiv.org/abs/1910.07467).

    x [..., D], weight [D]. Computed in float32 at least, returned in x's dtype.
    """
    return F.rms_norm(_wide(x), weight.shape, _wide(weight), eps).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, group_size: int) -> Tensor:
    """Norm of x · silu(gate) with one mean square for each group of `group_size` neighbouring channels.

    The gate goes first and the norm after it, as in Mamba-2 (Dao and Gu, https://arxiv.org/abs/2405.21060, section
    7.1; `norm_before_gate=False` in state-spaces' code, where a group of B and C has a group of the norm).

    x and gate [..., D], weight [D], group_size a divisor of D. Computed in float32 at least, returned in x's dtype.
    """
    gated = (_wide(x) * F.silu(_wide(gate))).unflatten(-1, (-1, group_size))
    return (F.rms_norm(gated, (group_size,), eps=eps).flatten(-2) * _wide(weight)).to(x.dtype)
