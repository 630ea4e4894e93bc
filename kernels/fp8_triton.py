"""Rounds the rows of a matrix to e4m3 with a factor for each row, as a Triton kernel: one program for a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.e4m3 import E4M3, LARGEST, SMALLEST
from kernels.norm_triton import row_block

_LARGEST, _SMALLEST = tl.constexpr(LARGEST), tl.constexpr(SMALLEST)


@triton.jit(do_not_specialize=["count"])
def _quantize_kernel(
    x_ptr, normed_ptr, values_ptr, scale_ptr, x_stride, count, width, columns, factor,
    BLOCK: tl.constexpr, IS_NORM: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    there = (i < width) & (row < count)
    x = tl.load(x_ptr + row * x_stride + i, mask=there, other=0.0).to(tl.float32)
    if IS_NORM:
        x *= tl.load(normed_ptr + row) * factor
        scale = 1.0 / factor
    else:
        top = tl.maximum(tl.max(tl.abs(x), 0), _SMALLEST)
        x *= _LARGEST / top
        scale = tl.where(row < count, top / _LARGEST, 1.0)
    tl.store(values_ptr + row * columns + i, x.to(values_ptr.dtype.element_ty), mask=i < columns)
    tl.store(scale_ptr + row, scale)


def quantize(x: Tensor, normed: Tensor | None, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`values` of this shape and `scale` of `kernels.fp8.quantize_rows`, or of `quantize_normed` with its `scale`."""
    x = x if x.stride(1) == 1 else x.contiguous()
    rows, columns = shape
    values = torch.empty(shape, dtype=E4M3, device=x.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    block, warps = row_block(columns)
    _quantize_kernel[(rows,)](
        x, scale if normed is None else normed, values, scale, x.stride(0), len(x), x.shape[1], columns,
        LARGEST / x.shape[1] ** 0.5, BLOCK=block, IS_NORM=normed is not None, num_warps=warps,
    )  # fmt: skip
    return values, scale
