"""Rotary positions as a Triton kernel, forward only; `kernels.rotary` has the function and the reference.

One program for a block of tokens and all heads: their angles are read once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TOKENS = 16  # of a program
_WARPS = 4


@triton.jit(do_not_specialize=["tokens"])
def _rotate_kernel(
    x_ptr, cos_ptr, sin_ptr, tokens, heads, x_stride, x_head,
    HALF: tl.constexpr, PADDED: tl.constexpr, TOKENS: tl.constexpr, STEP: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    rows = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)[:, None]
    pairs = tl.arange(0, PADDED)[None, :]
    there = (rows < tokens) & (pairs < HALF)
    cos = tl.load(cos_ptr + rows * HALF + pairs, mask=there, other=0.0)
    sin = tl.load(sin_ptr + rows * HALF + pairs, mask=there, other=0.0)
    first = x_ptr + rows * x_stride + pairs * STEP
    for head in tl.range(heads):
        at = first + tl.cast(head, tl.int64) * x_head
        a = tl.load(at, mask=there, other=0.0).to(tl.float32)
        b = tl.load(at + APART, mask=there, other=0.0).to(tl.float32)
        tl.store(at, (a * cos - b * sin).to(x_ptr.dtype.element_ty), mask=there)
        tl.store(at + APART, (a * sin + b * cos).to(x_ptr.dtype.element_ty), mask=there)


def rotate_rows(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> None:
    """`kernels.rotary.rotate` for checked arguments."""
    tokens, heads, _ = x.shape
    half = cos.shape[1]
    _rotate_kernel[(triton.cdiv(tokens, _TOKENS),)](
        x, cos.contiguous(), sin.contiguous(), tokens, heads, x.stride(0), x.stride(1),
        HALF=half, PADDED=triton.next_power_of_2(half), TOKENS=_TOKENS,
        STEP=2 if interleaved else 1, APART=1 if interleaved else half, num_warps=_WARPS,
    )  # fmt: skip
