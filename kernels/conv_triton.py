"""The packed causal convolution as a Triton kernel, forward only; `kernels.conv` has the function and the reference.

One program for a block of tokens of one document and a block of channels. Each tap reads the tokens again, from the
cache: device memory gives every input once. A program's tokens are taken some at a time, to load the weights once for
all of them.
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
_TOKENS = 64
_ROWS = 16
_CHANNELS = 256
_WARPS = 4


@triton.jit
def _conv1d_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, scale_ptr, out_ptr, blocks_ptr, x_stride, channels, column_blocks,
    ALIGN: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_INITIAL: tl.constexpr, HAS_SCALE: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) // column_blocks
    start = tl.load(blocks_ptr + block * 4).to(tl.int64)
    length = tl.load(blocks_ptr + block * 4 + 1)
    first = tl.load(blocks_ptr + block * 4 + 2)
    document = tl.load(blocks_ptr + block * 4 + 3).to(tl.int64)
    row_stride = x_stride * ALIGN

    c = (tl.program_id(0) % column_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < channels
    base = tl.zeros((BLOCK_C,), dtype=tl.float32)
    if HAS_BIAS:
        base += tl.load(bias_ptr + c, mask=there, other=0.0).to(tl.float32)
    weights = ()
    for k in tl.static_range(TAPS):
        weights += (tl.load(weight_ptr + c * TAPS + k, mask=there, other=0.0).to(tl.float32)[None, :],)
    for low in tl.range(first, tl.minimum(first + TOKENS, length), ROWS):
        i = low + tl.arange(0, ROWS)
        inside = (i < length)[:, None] & there[None, :]
        x_rows = x_ptr + (start + low) * row_stride + c[None, :]
        total = tl.zeros((ROWS, BLOCK_C), dtype=tl.float32) + base[None, :]
        for k in tl.static_range(TAPS):
            back = TAPS - 1 - k
            seen = inside & (i >= back)[:, None]
            x = tl.load(x_rows + (tl.arange(0, ROWS) - back)[:, None] * row_stride, mask=seen, other=0.0)
            x = x.to(tl.float32)
            if HAS_SCALE:
                scales = scale_ptr + start + low + tl.arange(0, ROWS) - back
                x *= tl.load(scales, mask=(i < length) & (i >= back), other=0.0)[:, None]
            if HAS_INITIAL:
                place = initial_ptr + (document * (TAPS - 1) + i + k)[:, None] * channels + c[None, :]
                x += tl.load(place, mask=inside & (i < back)[:, None], other=0.0).to(tl.float32)
            total += x * weights[k]
        y = total / (1.0 + tl.exp(-total))
        out = out_ptr + (start + low) * channels + tl.arange(0, ROWS)[:, None] * channels + c[None, :]
        tl.store(out, y.to(out_ptr.dtype.element_ty), mask=inside)


def conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack, initial_state: Tensor | None, scale: Tensor | None
) -> Tensor:
    """y of `kernels.conv.packed_conv1d` of checked arguments."""
    channels, taps = weight.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    blocks = blocks_of(pack, _TOKENS)
    column_blocks = triton.cdiv(channels, _CHANNELS)
    # Triton looks only for strides that 16 divides; 8 are 16 bytes of a half precision, enough for the widest loads.
    align = math.gcd(x.stride(0), 8)
    _conv1d_kernel[(len(blocks) * column_blocks,)](
        x, weight.contiguous(), bias, None if initial_state is None else initial_state.contiguous(), scale,
        out, blocks,
        x.stride(0) // align, channels, column_blocks,
        ALIGN=align, TAPS=taps, TOKENS=_TOKENS, ROWS=_ROWS, BLOCK_C=_CHANNELS,
        HAS_BIAS=bias is not None, HAS_INITIAL=initial_state is not None, HAS_SCALE=scale is not None,
        num_warps=_WARPS,
    )  # fmt: skip
    return out
