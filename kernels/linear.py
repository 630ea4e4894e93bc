"""Matrix products of a pack's rows, with a residual stream's sum and the sums of squares that its norm needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_GATE = 64  # columns that have a gate or have none together: a tile of Hopper's kernel
_PAD = 64  # columns: with rows padded to 128 bytes, a kernel that reads a slice of them reads whole sectors


def scales(x: Tensor, weight: Tensor) -> bool:
    """Whether `linear` takes a scale and a gate: on Hopper for what its kernel supports, and on a CPU."""
    if not x.is_cuda:
        return True
    from kernels import tiles_hopper

    return tiles_hopper.supports(x, weight)


@torch.no_grad()
def linear(x: Tensor, weight: Tensor, scale: Tensor | None = None, gate: int = 0) -> Tensor:
    """scale · (x @ weight.T), for x [T, K] and weight [N, K] of one dtype, scale [T] float32 or None: [T, N].

    The first `gate` columns, a multiple of 64, become their SiLU. Products are summed in float32, and the result is
    rounded to x's dtype. On a GPU the rows may have a stride above N. Forward only. Raises ValueError for a scale
    or a gate where `scales` says no.
    """
    if gate % _GATE:
        raise ValueError(f"the columns of a gate must be a multiple of {_GATE}; got {gate}")
    fused = scales(x, weight)
    if (scale is not None or gate) and not fused:
        raise ValueError("on this device a product of these matrices takes no scale and no gate")
    if not x.is_cuda:
        product = F.linear(x, weight)
        if scale is not None:
            product = product.float() * scale[:, None]
        if gate:
            product = torch.cat((F.silu(product[:, :gate]), product[:, gate:]), dim=1)
        return product.to(x.dtype)
    from kernels import linear_hopper

    width = len(weight)
    padded = torch.empty((len(x), -(-width // _PAD) * _PAD), dtype=x.dtype, device=x.device)
    out = padded[:, :width]
    if fused:
        # Writes the padding too: partly written lines of memory are slower.
        linear_hopper.linear(x, weight, padded, scale=scale, gate=gate)
    else:
        torch.mm(x, weight.T, out=out)
    return out


@torch.no_grad()
def add_linear(x: Tensor, weight: Tensor, residual: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """residual + scale · (x @ weight.T), and the sums of squares of its rows.

    x [T, K] and weight [N, K] of one dtype, residual [T, N], scale [T] float32. Returns the sum [T, N] in residual's
    dtype, and [parts, T] float32, the squares of what was returned, for `kernels.norm.row_scale`. Forward only.
    """
    if not x.is_cuda:
        total = (residual.float() + scale[:, None] * F.linear(x, weight).float()).to(residual.dtype)
        return total, total.float().square().sum(1)[None]
    from kernels import linear_hopper, tiles_hopper
    from kernels.norm_triton import add_rows

    if tiles_hopper.supports(x, weight, residual) and residual.dtype == x.dtype:
        out = torch.empty(residual.shape, dtype=residual.dtype, device=x.device)
        return out, linear_hopper.linear(x, weight, out, residual, scale)
    return add_rows(torch.mm(x, weight.T), residual, scale)
