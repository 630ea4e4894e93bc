"""The gate of an MLP as a Triton kernel, forward only; `kernels.gate` has the function and the reference."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # numbers of a row that a program takes
_WARPS = 4


@triton.jit
def _gated_kernel(x_ptr, out_ptr, width, column_blocks, BLOCK: tl.constexpr):
    row = (tl.program_id(0) // column_blocks).to(tl.int64)
    i = (tl.program_id(0) % column_blocks) * BLOCK + tl.arange(0, BLOCK)
    there = i < width
    y = tl.load(x_ptr + row * 2 * width + i, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + row * 2 * width + width + i, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + i, (y * gate / (1.0 + tl.exp(-gate))).to(out_ptr.dtype.element_ty), mask=there)


def gated_rows(x: Tensor) -> Tensor:
    """`kernels.gate.gated` of rows [T, 2 N], contiguous."""
    rows, width = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    column_blocks = triton.cdiv(width, _BLOCK)
    _gated_kernel[(rows * column_blocks,)](x, out, width, column_blocks, BLOCK=_BLOCK, num_warps=_WARPS)
    return out
