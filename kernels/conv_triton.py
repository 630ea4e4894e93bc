"""The packed causal convolution as a Triton kernel, forward only; `kernels.conv` has the function and the reference.

One program for a block of tokens of one document and a block of channels. Each tap reads the tokens again, from the
cache, so device memory is read once. A program loads the weights once and goes through its tokens some at a time.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import blocks_of
from kernels.pack import LOG2_E, Pack

# Tokens a program, tokens at a time, channels a program, warps.
_TOKENS = 32
_ROWS = 16
_CHANNELS = 256  # 16 bytes a thread of 16-bit numbers: the kernel waits for instructions as much as for memory
_WARPS = 1
_LOG2_E = tl.constexpr(LOG2_E)


@triton.jit
def _input(
    x_ptr, initial_ptr, scale_ptr, document, start, at, length, row_stride, channels, c, there, has_initial,
    TAPS: tl.constexpr, HAS_SCALE: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    """Row `at` of a document as float32, zeros past its end; before its start, if BEFORE, of its state."""
    inside = (at >= 0) & (at < length)
    x = tl.load(x_ptr + (start + at) * row_stride + c, mask=inside & there, other=0.0).to(tl.float32)
    if HAS_SCALE:
        x *= tl.load(scale_ptr + start + at, mask=inside, other=0.0)
    if BEFORE:
        if (has_initial != 0) & (at < 0):
            before = initial_ptr + (document * (TAPS - 1) + at + TAPS - 1) * channels + c
            x += tl.load(before, mask=there, other=0.0).to(tl.float32)
    return x


# Whether there are states is decided at run time, not compiled in: only a document's first and last rows use them.
@triton.jit(do_not_specialize=["has_initial", "has_final"])
def _conv1d_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, scale_ptr, positions_ptr, out_ptr, final_ptr, blocks_ptr,
    x_stride, channels, column_blocks, has_initial, has_final,
    ALIGN: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_POSITIONS: tl.constexpr, SILU: tl.constexpr,
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
        weights += (tl.load(weight_ptr + c * TAPS + k, mask=there, other=0.0).to(tl.float32),)
    for low in tl.range(first, tl.minimum(first + TOKENS, length), ROWS):
        # Each row once, with the TAPS - 1 before: an output is the sum over a window of them.
        rows = ()
        for j in tl.static_range(ROWS + TAPS - 1):
            at = low + j - (TAPS - 1)
            x = _input(
                x_ptr, initial_ptr, scale_ptr, document, start, at, length, row_stride, channels, c, there, has_initial,
                TAPS, HAS_SCALE, j < TAPS - 1,
            )  # fmt: skip
            rows += (x,)
        for i in tl.static_range(ROWS):
            total = base
            if HAS_POSITIONS:
                reach = tl.load(positions_ptr + start + low + i, mask=low + i < length, other=0)
            for k in tl.static_range(TAPS):
                if HAS_POSITIONS:
                    total += rows[i + k] * tl.where(reach >= TAPS - 1 - k, weights[k], 0.0)
                else:
                    total += rows[i + k] * weights[k]
            y = total
            if SILU:
                # 1/d as rsqrt(d·d): one instruction, where a division takes seven
                d = 1.0 + tl.exp2(total * -_LOG2_E)
                y = total * tl.rsqrt(d * d)
            out = out_ptr + (start + low + i) * channels + c
            tl.store(out, y.to(out_ptr.dtype.element_ty), mask=there & (low + i < length))

    if (has_final != 0) & (first + TOKENS >= length):
        for k in tl.static_range(TAPS - 1):
            at = length - (TAPS - 1) + k
            x = _input(
                x_ptr, initial_ptr, scale_ptr, document, start, at, length, row_stride, channels, c, there, has_initial,
                TAPS, HAS_SCALE, True,
            )  # fmt: skip
            place = final_ptr + (document * (TAPS - 1) + k) * channels + c
            tl.store(place, x.to(final_ptr.dtype.element_ty), mask=there)


def conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack, initial_state: Tensor | None, keep_state: bool,
    scale: Tensor | None, positions: Tensor | None = None, silu: bool = True,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`kernels.conv.packed_conv1d` for checked arguments."""
    channels, taps = weight.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    before = out if initial_state is None else initial_state.to(x.dtype).contiguous()
    after = x.new_empty(len(pack.lengths), taps - 1, channels) if keep_state else None
    blocks = blocks_of(pack, _TOKENS)
    column_blocks = triton.cdiv(channels, _CHANNELS)
    # Triton only detects strides that 16 divides. 8 numbers of 16 bits are 16 bytes, enough for the widest loads.
    align = math.gcd(x.stride(0), 8)
    _conv1d_kernel[(len(blocks) * column_blocks,)](
        x, weight.contiguous(), bias, before, scale, positions, out, out if after is None else after, blocks,
        x.stride(0) // align, channels, column_blocks, int(initial_state is not None), int(keep_state),
        ALIGN=align, TAPS=taps, TOKENS=_TOKENS, ROWS=_ROWS, BLOCK_C=_CHANNELS,
        HAS_BIAS=bias is not None, HAS_SCALE=scale is not None, HAS_POSITIONS=positions is not None, SILU=silu,
        num_warps=_WARPS,
    )  # fmt: skip
    return out, after
