"""Root-mean-square norms: plain, after a residual sum, and gated as at the end of a Mamba-2 mixer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _wide(x: Tensor) -> Tensor:
    """`x` in float32, or unchanged if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def _for_kernels(*tensors: Tensor) -> bool:
    """Whether the kernels can run: on a GPU, in at most float32, and no gradient is asked for."""
    on_gpu = all(t.is_cuda and t.dtype in _DTYPES for t in tensors)
    return on_gpu and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last axis (Zhang and Sennrich, https://arxiv.org/abs/1910.07467).

    x [..., D], weight [D]. Computed in float32 at least, returned in x's dtype.
    """
    return F.rms_norm(_wide(x), weight.shape, _wide(weight), eps).to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of a layer's output and the residual stream, and its `rms_norm`, the input of the next layer.

    x and residual [..., D], weight [D]. Returns the norm in x's dtype and the sum in residual's; without a residual the
    sum is x itself. The sum is rounded to its dtype before the norm reads it. Differentiable.
    """
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"x is {[*x.shape]} and the residual {[*residual.shape]}; they must agree")
    if _for_kernels(x, weight, *(() if residual is None else (residual,))):
        from kernels.norm_triton import add_norm

        return add_norm(x, residual, weight, eps)
    total = x if residual is None else (_wide(x) + _wide(residual)).to(residual.dtype)
    return rms_norm(_wide(total), weight, eps).to(x.dtype), total


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, group_size: int) -> Tensor:
    """Norm of x · silu(gate) with one mean square for each group of `group_size` neighbouring channels.

    The gate goes first and the norm after it, as in Mamba-2 (Dao and Gu, https://arxiv.org/abs/2405.21060, section
    7.1; `norm_before_gate=False` in state-spaces' code, where a group of B and C has a group of the norm).

    x and gate [..., D], weight [D], group_size a divisor of D. Computed in float32 at least, returned in x's dtype.
    Differentiable.
    """
    if _for_kernels(x, gate, weight):
        from kernels.norm_triton import gated_norm

        return gated_norm(x, gate, weight, eps, group_size)
    gated = (_wide(x) * F.silu(_wide(gate))).unflatten(-1, (-1, group_size))
    return (F.rms_norm(gated, (group_size,), eps=eps).flatten(-2) * _wide(weight)).to(x.dtype)


def row_squares(x: Tensor) -> Tensor:
    """The sum of squares of each row of x [T, D]: [1, T] float32, the form that `row_scale` takes. Forward only."""
    if x.is_cuda:
        from kernels.norm_triton import add_rows

        return add_rows(None, x, None)[1]
    return x.float().square().sum(1)[None]


def row_scale(squares: Tensor, width: int, eps: float) -> Tensor:
    """The factor of an RMS norm for rows of `width` numbers: 1 / sqrt(mean square + eps), [T] float32.

    squares [K, T] float32 has the sums of squares of K parts of each row, added in order. Forward only.
    """
    if squares.is_cuda:
        from kernels.norm_triton import scale_rows

        return scale_rows(squares, width, eps)
    return torch.rsqrt(squares.sum(0) / width + eps)
