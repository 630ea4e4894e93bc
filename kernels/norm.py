"""Root-mean-square norms: plain, after a residual sum, and gated as at the end of a Mamba-2 mixer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class NormGradients(NamedTuple):
    """The gradients of the residual, of x in the norm's dtype (the same, rounded) and of the weight; and the norm."""

    residual: Tensor
    x: Tensor
    weight: Tensor
    normed: Tensor


class GatedNormGradients(NamedTuple):
    """The gradients of x, gate and weight, and the norm, which a product after it needs for its own gradient."""

    x: Tensor
    gate: Tensor
    weight: Tensor
    normed: Tensor


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


@torch.no_grad()
def add_rms_norm_backward(
    grad: Tensor, grad_total: Tensor | None, total: Tensor, weight: Tensor, eps: float
) -> NormGradients:
    """The gradients of `add_rms_norm`, given those of its norm and of its sum, if that is used: `total` is the sum.

    grad and total [..., D], contiguous, grad_total like total, weight [D]. The same inputs give the same bits.
    """
    if _for_kernels(grad, total, weight):
        from kernels.norm_backward_triton import add_norm_backward

        return NormGradients(*add_norm_backward(grad, grad_total, total, weight, eps))
    leaves = total.detach().requires_grad_(), weight.detach().requires_grad_()
    with torch.enable_grad():
        normed = rms_norm(*leaves, eps)
    of_total, of_weight = torch.autograd.grad(normed, leaves, grad.to(normed.dtype))
    of_total = of_total if grad_total is None else of_total + grad_total
    return NormGradients(of_total, of_total.to(grad.dtype), of_weight, normed.detach().to(grad.dtype))


@torch.no_grad()
def gated_rms_norm_backward(
    grad: Tensor, x: Tensor, gate: Tensor, weight: Tensor, eps: float, group_size: int, grad_gate: Tensor | None = None
) -> GatedNormGradients:
    """The gradients of `gated_rms_norm`, given that of its result, all of [T, D] with contiguous channels.

    That of the gate is written to `grad_gate`, rows of any stride, or to a new tensor. The same inputs give the same
    bits.
    """
    grad_gate = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device) if grad_gate is None else grad_gate
    if _for_kernels(grad, x, gate, weight):
        from kernels.norm_backward_triton import gated_norm_backward

        of_x, of_weight, normed = gated_norm_backward(grad, x, gate, weight, eps, group_size, grad_gate)
        return GatedNormGradients(of_x, grad_gate, of_weight, normed)
    x, gate, weight = (m.detach().requires_grad_() for m in (x, gate, weight))
    with torch.enable_grad():
        normed = gated_rms_norm(x, gate, weight, eps, group_size)
    of_x, of_gate, of_weight = torch.autograd.grad(normed, (x, gate, weight), grad)
    return GatedNormGradients(of_x, grad_gate.copy_(of_gate), of_weight, normed.detach())


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
