"""The norms of `kernels.norm` as Triton kernels, forward only: one program for a row, or for a group of one."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 65536  # numbers normed together
_SCALES = 512  # rows whose scales one program computes
_A_WARP = 1024  # numbers of a row that one warp takes, 32 a thread


@triton.jit
def _add_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, x_stride, residual_stride, width, eps,
    ALIGN: tl.constexpr, BLOCK: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    there = i < width
    x = tl.load(x_ptr + row * (x_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        x += tl.load(residual_ptr + row * (residual_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        rounded = x.to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * width + i, rounded, mask=there)
        x = rounded.to(tl.float32)
    weight = tl.load(weight_ptr + i, mask=there, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps) * weight
    tl.store(out_ptr + row * width + i, y.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def _gated_norm_kernel(
    x_ptr, gate_ptr, weight_ptr, out_ptr, x_stride, gate_stride, width, groups, eps,
    ALIGN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // groups).to(tl.int64)
    i = tl.arange(0, BLOCK)
    there = i < width
    i += (tl.program_id(0) % groups) * width
    x = tl.load(x_ptr + row * (x_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + row * (gate_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + i, mask=there, other=0.0).to(tl.float32)
    x *= gate / (1.0 + tl.exp(-gate))
    y = x * tl.rsqrt(tl.sum(x * x, 0) / width + eps) * weight
    tl.store(out_ptr + row * (groups * width) + i, y.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit
def _add_rows_kernel(
    x_ptr, rows_ptr, scale_ptr, sum_ptr, squares_ptr, x_stride, rows_stride, width,
    ALIGN: tl.constexpr, BLOCK: tl.constexpr, HAS_X: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BLOCK)
    there = i < width
    total = tl.load(rows_ptr + row * (rows_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
    if HAS_X:
        x = tl.load(x_ptr + row * (x_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        rounded = (total + x * tl.load(scale_ptr + row)).to(sum_ptr.dtype.element_ty)
        tl.store(sum_ptr + row * width + i, rounded, mask=there)
        total = rounded.to(tl.float32)
    tl.store(squares_ptr + row, tl.sum(total * total, 0))


@triton.jit(do_not_specialize=["tokens", "parts"])
def _scale_rows_kernel(squares_ptr, scale_ptr, tokens, parts, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = row < tokens
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for _ in range(parts):
        total += tl.load(squares_ptr + row, mask=there, other=0.0)
        squares_ptr += tokens
    tl.store(scale_ptr + row, tl.rsqrt(total / width + eps), mask=there)


def add_rows(x: Tensor | None, rows: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """rows + scale · x (rows alone without x), in rows' dtype, and its sums of squares [1, T] float32."""
    width = rows.shape[1]
    squares = torch.empty((1, len(rows)), dtype=torch.float32, device=rows.device)
    total = rows if x is None else torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    strides = 0 if x is None else x.stride(0), rows.stride(0)
    align = math.gcd(8, *strides)
    block, warps = row_block(width)
    _add_rows_kernel[(len(rows),)](
        x, rows, scale, total, squares, *(s // align for s in strides), width,
        ALIGN=align, BLOCK=block, HAS_X=x is not None, num_warps=warps,
    )  # fmt: skip
    return total, squares


def scale_rows(squares: Tensor, width: int, eps: float) -> Tensor:
    """`kernels.norm.row_scale`."""
    parts, tokens = squares.shape
    scale = torch.empty(tokens, dtype=torch.float32, device=squares.device)
    _scale_rows_kernel[(triton.cdiv(tokens, _SCALES),)](
        squares, scale, tokens, parts, width, eps, BLOCK=_SCALES, num_warps=4
    )
    return scale


def add_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`kernels.norm.add_rms_norm` without a gradient."""
    rows = _rows(x)
    added = None if residual is None else _rows(residual)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty(residual.shape, dtype=residual.dtype, device=x.device)
    width = x.shape[-1]
    block, warps = row_block(width)
    strides = rows.stride(0), 0 if added is None else added.stride(0)
    align = math.gcd(8, *strides)
    _add_norm_kernel[(len(rows),)](
        rows, added, weight.contiguous(), out, total, *(s // align for s in strides), width, eps,
        ALIGN=align, BLOCK=block, HAS_RESIDUAL=residual is not None, num_warps=warps,
    )  # fmt: skip
    return out, total


def gated_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float, group_size: int) -> Tensor:
    """`kernels.norm.gated_rms_norm` without a gradient."""
    rows, gates = _rows(x), _rows(gate)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    groups = x.shape[-1] // group_size
    block, warps = row_block(group_size)
    align = math.gcd(8, rows.stride(0), gates.stride(0))
    _gated_norm_kernel[(len(rows) * groups,)](
        rows, gates, weight.contiguous(), out, rows.stride(0) // align, gates.stride(0) // align, group_size, groups,
        eps, ALIGN=align, BLOCK=block, num_warps=warps,
    )  # fmt: skip
    return out


def _rows(x: Tensor) -> Tensor:
    """[..., D] -> [R, D], contiguous in D; a view if possible."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def row_block(width: int) -> tuple[int, int]:
    """The numbers of a program, a power of two, and its warps: fixed, so that a row always gives the same bits."""
    if width > WIDEST:
        raise ValueError(f"rows of {width:,} numbers are too wide for the kernel; it takes {WIDEST:,} at most")
    block = triton.next_power_of_2(width)
    return block, min(16, max(1, block // _A_WARP))
