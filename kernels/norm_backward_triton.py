"""The gradients of the norms of `kernels.norm` as Triton kernels: some rows a program, one after the other.

With r the factor of a row, n = r x what is multiplied by the weight w, and g the gradient of the norm,

    dx = r (w g - n mean(n w g))        dw = Σ n g over all rows

A program adds up its rows' share of dw; the shares are added in order. Each kernel writes the norm again, too.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.norm_triton import WIDEST

_ROWS = 32  # that a program takes
_STAGES = 4  # rows whose copies are under way, of at most _STAGED numbers
_STAGED = 2048
_A_WARP = 512  # numbers of a row that one warp takes, 16 a thread


@triton.jit
def _add_norm_backward_kernel(
    total_ptr, weight_ptr, grad_ptr, grad_total_ptr, out_ptr, narrow_ptr, normed_ptr, parts_ptr,
    total_stride, grad_stride, grad_total_stride, rows, width, eps,
    ALIGN: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
    HAS_TOTAL: tl.constexpr, HAS_NARROW: tl.constexpr,
):  # fmt: skip
    i = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + i, mask=i < width, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK,), dtype=tl.float32)
    for k in tl.range(0, ROWS, num_stages=STAGES):
        row = tl.program_id(0).to(tl.int64) * ROWS + k
        there = (i < width) & (row < rows)
        x = tl.load(total_ptr + row * (total_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + row * (grad_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        factor = tl.rsqrt(tl.sum(x * x, 0) / width + eps)
        x *= factor
        tl.store(normed_ptr + row * width + i, (x * weight).to(normed_ptr.dtype.element_ty), mask=there)
        of_weight += x * grad
        grad *= weight
        out = factor * (grad - x * (tl.sum(x * grad, 0) / width))
        if HAS_TOTAL:
            out += tl.load(grad_total_ptr + row * (grad_total_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        tl.store(out_ptr + row * width + i, out.to(out_ptr.dtype.element_ty), mask=there)
        if HAS_NARROW:
            tl.store(narrow_ptr + row * width + i, out.to(narrow_ptr.dtype.element_ty), mask=there)
    tl.store(parts_ptr + tl.program_id(0).to(tl.int64) * width + i, of_weight, mask=i < width)


@triton.jit
def _gated_norm_backward_kernel(
    x_ptr, gate_ptr, weight_ptr, grad_ptr, out_ptr, grad_gate_ptr, normed_ptr, parts_ptr,
    x_stride, gate_stride, grad_stride, grad_gate_stride, rows, width, groups, eps,
    ALIGN: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    share = (tl.program_id(0) // groups).to(tl.int64)
    i = tl.arange(0, BLOCK)
    known = i < width
    i += (tl.program_id(0) % groups) * width
    whole = groups * width
    weight = tl.load(weight_ptr + i, mask=known, other=0.0).to(tl.float32)
    of_weight = tl.zeros((BLOCK,), dtype=tl.float32)
    for k in tl.range(0, ROWS, num_stages=STAGES):
        row = share * ROWS + k
        there = known & (row < rows)
        x = tl.load(x_ptr + row * (x_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + row * (gate_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        grad = tl.load(grad_ptr + row * (grad_stride * ALIGN) + i, mask=there, other=0.0).to(tl.float32)
        half = 1.0 / (1.0 + tl.exp(-gate))
        silu = gate * half
        gated = x * silu
        factor = tl.rsqrt(tl.sum(gated * gated, 0) / width + eps)
        gated *= factor
        tl.store(normed_ptr + row * whole + i, (gated * weight).to(normed_ptr.dtype.element_ty), mask=there)
        of_weight += gated * grad
        grad *= weight
        grad = factor * (grad - gated * (tl.sum(gated * grad, 0) / width))
        tl.store(out_ptr + row * whole + i, (grad * silu).to(out_ptr.dtype.element_ty), mask=there)
        grad_gate = grad * x * half * (1.0 + gate * (1.0 - half))
        grad_gate_row = grad_gate_ptr + row * (grad_gate_stride * ALIGN) + i
        tl.store(grad_gate_row, grad_gate.to(grad_gate_ptr.dtype.element_ty), mask=there)
    tl.store(parts_ptr + share * whole + i, of_weight, mask=known)


def add_norm_backward(
    grad: Tensor, grad_total: Tensor | None, total: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`kernels.norm.add_rms_norm_backward` for a GPU."""
    rows, grads = total.view(-1, total.shape[-1]), grad.view(-1, grad.shape[-1])
    n_rows, width = rows.shape
    totals = None if grad_total is None else grad_total.view(rows.shape)
    out = torch.empty(total.shape, dtype=total.dtype, device=total.device)
    same = out.dtype == grad.dtype
    narrow = out if same else torch.empty(total.shape, dtype=grad.dtype, device=total.device)
    normed = torch.empty(total.shape, dtype=grad.dtype, device=total.device)
    strides = rows.stride(0), grads.stride(0), 0 if totals is None else totals.stride(0)
    align = math.gcd(8, *strides)
    block, warps, stages = _block(width)
    programs = triton.cdiv(n_rows, _ROWS)
    parts = torch.empty((programs, width), dtype=torch.float32, device=total.device)
    _add_norm_backward_kernel[(programs,)](
        rows, weight.contiguous(), grads, totals, out, narrow, normed, parts, *(s // align for s in strides),
        n_rows, width, eps, ALIGN=align, BLOCK=block, ROWS=_ROWS, STAGES=stages, HAS_TOTAL=totals is not None,
        HAS_NARROW=not same, num_warps=warps,
    )  # fmt: skip
    return out, narrow, parts.sum(0), normed


def gated_norm_backward(
    grad: Tensor, x: Tensor, gate: Tensor, weight: Tensor, eps: float, group_size: int, grad_gate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.norm.gated_rms_norm_backward` for a GPU, of [T, D]; writes `grad_gate`."""
    n_rows, whole = x.shape
    groups = whole // group_size
    out, normed = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    strides = x.stride(0), gate.stride(0), grad.stride(0), grad_gate.stride(0)
    align = math.gcd(8, *strides)
    block, warps, stages = _block(group_size)
    programs = triton.cdiv(n_rows, _ROWS)
    parts = torch.empty((programs, whole), dtype=torch.float32, device=x.device)
    _gated_norm_backward_kernel[(programs * groups,)](
        x, gate, weight.contiguous(), grad, out, grad_gate, normed, parts, *(s // align for s in strides), n_rows,
        group_size, groups, eps, ALIGN=align, BLOCK=block, ROWS=_ROWS, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    return out, parts.sum(0), normed


def _block(width: int) -> tuple[int, int, int]:
    """The numbers of a row, a power of two, its warps and its stages: fixed, so that bits are too."""
    if width > WIDEST:
        raise ValueError(f"rows of {width:,} numbers are too wide for the kernel; it takes {WIDEST:,} at most")
    block = triton.next_power_of_2(width)
    return block, min(16, max(1, block // _A_WARP)), _STAGES if block <= _STAGED else 1
