"""The gradients of the packed causal convolution as a Triton kernel; `kernels.conv` has the function and the reference.

As forwards, one program for a block of tokens of one document and a block of channels. It makes the sums under the SiLU
again, of its own tokens and of those after them that the filter reaches.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import blocks_of
from kernels.pack import Pack

# Tokens a program, tokens at a time, channels a program, warps.
_TOKENS = 128
_ROWS = 16
_CHANNELS = 128
_WARPS = 2


@triton.jit
def _conv1d_backward_kernel(
    x_ptr, weight_ptr, bias_ptr, positions_ptr, grad_ptr, out_ptr, parts_ptr, blocks_ptr,
    x_stride, grad_stride, out_stride, channels, column_blocks,
    ALIGN: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_POSITIONS: tl.constexpr,
):  # fmt: skip
    """`parts` [blocks, TAPS + 1, C] has the block's shares of the gradients of each tap and of the bias."""
    block = tl.program_id(0) // column_blocks
    start = tl.load(blocks_ptr + block * 4).to(tl.int64)
    length = tl.load(blocks_ptr + block * 4 + 1)
    first = tl.load(blocks_ptr + block * 4 + 2)
    x_stride *= ALIGN
    grad_stride *= ALIGN
    out_stride *= ALIGN

    c = (tl.program_id(0) % column_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    base = tl.zeros((BLOCK_C,), dtype=tl.float32)
    if HAS_BIAS:
        base += tl.load(bias_ptr + c, mask=there, other=0.0).to(tl.float32)
    weights = ()
    sums = ()  # the shares
    for k in tl.static_range(TAPS):
        weights += (tl.load(weight_ptr + c * TAPS + k, mask=there, other=0.0).to(tl.float32),)
    for _ in tl.static_range(TAPS + 1):
        sums += (tl.zeros((BLOCK_C,), dtype=tl.float32),)
    for low in tl.range(first, tl.minimum(first + TOKENS, length), ROWS):
        rows = ()
        for j in tl.static_range(ROWS + 2 * (TAPS - 1)):
            at = low + j - (TAPS - 1)
            inside = (at >= 0) & (at < length)
            x = tl.load(x_ptr + (start + at) * x_stride + c, mask=inside & there, other=0.0)
            rows += (x.to(tl.float32),)
        slopes = ()  # the gradients of the sums under the SiLU, zero past the document's end
        reaches = ()  # how many inputs before its own an output has
        for i in tl.static_range(ROWS + TAPS - 1):
            reach = TAPS - 1
            if HAS_POSITIONS:
                reach = tl.load(positions_ptr + start + low + i, mask=low + i < length, other=0).to(tl.int32)
            reaches += (reach,)
            total = base
            for k in tl.static_range(TAPS):
                total += rows[i + k] * tl.where(reach >= TAPS - 1 - k, weights[k], 0.0)
            grad_rows = grad_ptr + (start + low + i) * grad_stride + c
            grad = tl.load(grad_rows, mask=there & (low + i < length), other=0.0).to(tl.float32)
            half = 1.0 / (1.0 + tl.exp(-total))
            slopes += (grad * half * (1.0 + total * (1.0 - half)),)
        added = ()
        for k in tl.static_range(TAPS):
            share = tl.zeros((BLOCK_C,), dtype=tl.float32)
            for i in tl.static_range(ROWS):
                share += slopes[i] * tl.where(reaches[i] >= TAPS - 1 - k, rows[i + k], 0.0)
            added += (sums[k] + share,)
        share = tl.zeros((BLOCK_C,), dtype=tl.float32)
        for i in tl.static_range(ROWS):
            share += slopes[i]
        added += (sums[TAPS] + share,)
        sums = added
        for i in tl.static_range(ROWS):
            total = slopes[i] * weights[TAPS - 1]
            for k in tl.static_range(1, TAPS):
                total += slopes[i + k] * tl.where(reaches[i + k] >= k, weights[TAPS - 1 - k], 0.0)
            out = out_ptr + (start + low + i) * out_stride + c
            tl.store(out, total.to(out_ptr.dtype.element_ty), mask=there & (low + i < length))
    for k in tl.static_range(TAPS + 1):
        tl.store(parts_ptr + (block.to(tl.int64) * (TAPS + 1) + k) * channels + c, sums[k], mask=there)


def conv1d_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack, positions: Tensor | None, out: Tensor
) -> tuple[Tensor, Tensor]:
    """`kernels.conv.packed_conv1d_backward` for checked arguments: writes `out`, returns those of weight and bias."""
    channels, taps = weight.shape
    blocks = blocks_of(pack, _TOKENS)
    column_blocks = triton.cdiv(channels, _CHANNELS)
    parts = torch.empty((len(blocks), taps + 1, channels), dtype=torch.float32, device=x.device)
    strides = x.stride(0), grad.stride(0), out.stride(0)
    align = math.gcd(8, *strides)  # Triton only detects strides that 16 divides
    _conv1d_backward_kernel[(len(blocks) * column_blocks,)](
        x, weight.contiguous(), bias, positions, grad, out, parts, blocks, *(s // align for s in strides), channels,
        column_blocks, ALIGN=align, TAPS=taps, TOKENS=_TOKENS, ROWS=_ROWS, BLOCK_C=_CHANNELS,
        HAS_BIAS=bias is not None, HAS_POSITIONS=positions is not None, num_warps=_WARPS,
    )  # fmt: skip
    sums = parts.sum(0)
    return sums[:taps].T, sums[taps]
