"""Matrix products of a pack's rows, with a residual stream's sum and the sums of squares that its norm needs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_PAD = 64  # columns: with rows padded to 128 bytes, a kernel that reads a slice of them reads whole sectors


@torch.no_grad()
def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight.T, for x [T, K] and weight [N, K] of one dtype: [T, N] in it, summed in float32. Forward only.

    On a GPU the rows may have a stride above N.
    """
    if not x.is_cuda:
        return F.linear(x, weight)
    from kernels import linear_hopper, tiles_hopper

    width = len(weight)
    padded = torch.empty((len(x), -(-width // _PAD) * _PAD), dtype=x.dtype, device=x.device)
    out = padded[:, :width]
    if tiles_hopper.supports(x, weight):
        linear_hopper.linear(x, weight, padded)  # writes the padding too: partly written lines of memory are slower
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
