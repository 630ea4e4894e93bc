"""The packed causal convolution as a Triton kernel, forward only; `kernels.conv` has the function and the reference.

One program for a block of tokens of one document and a block of channels. It loads the weights once and goes through
its tokens some at a time: the next ones are copied while an output is made of each and those before, which it keeps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.blocks import blocks_of
from kernels.pack import LOG2_E, Pack

# Tokens a program, tokens at a time, channels a program, warps, registers a thread.
_TOKENS = 128
_ROWS = 4
_CHANNELS = 256  # 16 bytes a thread of 16-bit numbers
_WARPS = 1
_REGISTERS = 128  # without a limit the compiler takes more, so that fewer warps hide the time of copies
_LOG2_E = tl.constexpr(LOG2_E)


@triton.jit
def _load_rows(x_ptr, scale_ptr, left, there, ROWS: tl.constexpr, STRIDE: tl.constexpr, HAS_SCALE: tl.constexpr):
    """The next ROWS rows as they lie in memory, and their scales; zeros after the first `left`."""
    rows = ()
    scales = ()
    for j in tl.static_range(ROWS):
        rows += (tl.load(x_ptr + j * STRIDE, mask=there & (j < left), other=0.0),)
        if HAS_SCALE:
            scales += (tl.load(scale_ptr + j, mask=j < left, other=0.0),)
        else:
            scales += (1.0,)
    return rows, scales


@triton.jit
def _row(
    x_ptr, initial_ptr, scale_ptr, document, start, at, length, c, there, has_initial,
    TAPS: tl.constexpr, STRIDE: tl.constexpr, CHANNELS: tl.constexpr, HAS_SCALE: tl.constexpr,
):  # fmt: skip
    """Row `at` of a document as float32; before its start, of its state, or zeros."""
    inside = (at >= 0) & (at < length)
    x = tl.load(x_ptr + (start + at) * STRIDE + c, mask=inside & there, other=0.0).to(tl.float32)
    if HAS_SCALE:
        x *= tl.load(scale_ptr + start + at, mask=inside, other=0.0)
    if (has_initial != 0) & (at < 0):
        before = initial_ptr + (document * (TAPS - 1) + at + TAPS - 1) * CHANNELS + c
        x += tl.load(before, mask=there, other=0.0).to(tl.float32)
    return x


# Whether there are states is decided at run time, not compiled in: only a document's first and last rows use them.
@triton.jit(do_not_specialize=["has_initial", "has_final"])
def _conv1d_kernel(
    x_ptr, weight_ptr, bias_ptr, initial_ptr, scale_ptr, positions_ptr, out_ptr, final_ptr, blocks_ptr,
    has_initial, has_final,
    STRIDE: tl.constexpr, CHANNELS: tl.constexpr, TAPS: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_POSITIONS: tl.constexpr,
    SILU: tl.constexpr,
):  # fmt: skip
    column_blocks: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    block = tl.program_id(0) // column_blocks
    start = tl.load(blocks_ptr + block * 4).to(tl.int64)
    length = tl.load(blocks_ptr + block * 4 + 1)
    first = tl.load(blocks_ptr + block * 4 + 2)
    document = tl.load(blocks_ptr + block * 4 + 3).to(tl.int64)

    c = (tl.program_id(0) % column_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = c < CHANNELS if CHANNELS % BLOCK_C != 0 else tl.full((BLOCK_C,), 1, tl.int1)
    x_rows = x_ptr + (start + first) * STRIDE + c
    out_rows = out_ptr + (start + first) * CHANNELS + c
    scale_rows = scale_ptr + start + first if HAS_SCALE else x_ptr
    stop = tl.minimum(first + TOKENS, length)
    # The first rows of the loop; each round of it copies those of the next.
    raw, scales = _load_rows(x_rows, scale_rows, stop - first, there, ROWS, STRIDE, HAS_SCALE)
    base = tl.zeros((BLOCK_C,), dtype=tl.float32)
    if HAS_BIAS:
        base += tl.load(bias_ptr + c, mask=there, other=0.0).to(tl.float32)
    weights = ()
    for k in tl.static_range(TAPS):
        weights += (tl.load(weight_ptr + c * TAPS + k, mask=there, other=0.0).to(tl.float32),)
    window = ()  # the TAPS - 1 rows before
    for k in tl.static_range(TAPS - 1):
        window += (
            _row(
                x_ptr, initial_ptr, scale_ptr, document, start, first + k - (TAPS - 1), length, c, there, has_initial,
                TAPS, STRIDE, CHANNELS, HAS_SCALE,
            ),
        )  # fmt: skip

    for low in tl.range(first, stop, ROWS):
        rows = window
        for j in tl.static_range(ROWS):
            rows += (raw[j].to(tl.float32) * scales[j] if HAS_SCALE else raw[j].to(tl.float32),)
        x_rows += ROWS * STRIDE
        if HAS_SCALE:
            scale_rows += ROWS
        raw, scales = _load_rows(x_rows, scale_rows, stop - low - ROWS, there, ROWS, STRIDE, HAS_SCALE)
        for i in tl.static_range(ROWS):
            total = base
            if HAS_POSITIONS:
                reach = tl.load(positions_ptr + start + low + i, mask=low + i < stop, other=0)
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
            tl.store(out_rows + i * CHANNELS, y.to(out_ptr.dtype.element_ty), mask=there & (low + i < stop))
        out_rows += ROWS * CHANNELS
        window = rows[ROWS:]

    if (has_final != 0) & (first + TOKENS >= length):
        for k in tl.static_range(TAPS - 1):
            x = _row(
                x_ptr, initial_ptr, scale_ptr, document, start, length + k - (TAPS - 1), length, c, there, has_initial,
                TAPS, STRIDE, CHANNELS, HAS_SCALE,
            )  # fmt: skip
            place = final_ptr + (document * (TAPS - 1) + k) * CHANNELS + c
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
    _conv1d_kernel[(len(blocks) * triton.cdiv(channels, _CHANNELS),)](
        x, weight.contiguous(), bias, before, scale, positions, out, out if after is None else after, blocks,
        int(initial_state is not None), int(keep_state),
        STRIDE=x.stride(0), CHANNELS=channels, TAPS=taps, TOKENS=_TOKENS, ROWS=_ROWS, BLOCK_C=_CHANNELS,
        HAS_BIAS=bias is not None, HAS_SCALE=scale is not None, HAS_POSITIONS=positions is not None, SILU=silu,
        num_warps=_WARPS, maxnreg=_REGISTERS,
    )  # fmt: skip
    return out, after
