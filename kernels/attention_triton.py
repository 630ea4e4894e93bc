"""Packed attention as a Triton kernel, forward only; `kernels.attention` has the function and the reference.

One program for a head and a block of queries of one document. Blocks of queries and of keys are counted from the
document's start, so a document's result does not depend on its place in the pack. The program goes over the document's
keys in order: with a window first over those at its edge, which are masked, then over those that all its queries see,
and last over those around the diagonal, masked again. If it is not causal, over the keys in whole blocks and then over
those of the last block, masked; with a window over those that some query sees, all masked. Exponentials are in base 2,
with scale and log2(e) in one factor. Where documents go on, rows and keys are counted from a document's first key, of
which there are `before` in front of its first query.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from kernels.blocks import blocks_of
from kernels.pack import LOG2_E, Pack, Table


class Tile(NamedTuple):
    """The tile of a program: queries, keys at a time, warps, pipeline stages of the loads."""

    queries: int
    keys: int
    warps: int
    stages: int


# By head width, rounded up to a power of two. Any other device uses those of compute capability 8.0, in 99 KiB.
_HOPPER = {
    16: Tile(128, 64, 8, 3),
    32: Tile(128, 64, 8, 3),
    64: Tile(128, 64, 8, 3),
    128: Tile(128, 64, 8, 3),
    256: Tile(128, 64, 8, 2),
}
_AMPERE = {
    16: Tile(128, 64, 4, 3),
    32: Tile(128, 64, 4, 3),
    64: Tile(128, 64, 4, 3),
    128: Tile(128, 64, 8, 3),
    256: Tile(64, 32, 8, 2),
}
_FLOAT32 = {
    16: Tile(64, 32, 4, 2),
    32: Tile(64, 32, 4, 2),
    64: Tile(64, 32, 4, 2),
    128: Tile(32, 32, 4, 2),
    256: Tile(16, 32, 4, 1),
}

# The maximum of a query that has seen no key yet: below any score, and finite, because inf - inf is NaN.
LOWEST = -1e38
_LOWEST = tl.constexpr(LOWEST)


def fixed_tile(q: Tensor) -> Tile:
    """The tile for q's device, dtype and head width: a fixed table, so that the same input gives the same bits."""
    width = _padded(q.shape[2])
    if q.dtype == torch.float32:
        return _FLOAT32[width]
    return (_HOPPER if torch.cuda.get_device_capability(q.device)[0] == 9 else _AMPERE)[width]


@triton.jit
def _attend(
    acc, top, total, q, k_ptr, v_ptr, k_stride, v_stride, low, high, rows, length, window, inner, outer,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    MASKED: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """Takes the keys from `low` to `high` into acc [BM, D], the maximum `top` and the sum `total` of exponentials."""
    in_block = tl.arange(0, BLOCK_N)
    channels = tl.arange(0, PADDED)
    k_block = in_block[:, None] * k_stride + channels[None, :]
    v_block = in_block[:, None] * v_stride + channels[None, :]
    whole = channels[None, :] < WIDTH
    for start in tl.range(low, high, BLOCK_N):
        start = tl.multiple_of(start, BLOCK_N)
        keys = start + in_block
        k_tile = k_ptr + tl.cast(start, tl.int64) * k_stride + k_block
        v_tile = v_ptr + tl.cast(start, tl.int64) * v_stride + v_block
        if MASKED:
            inside = (keys[:, None] < length) & whole
            k = tl.load(k_tile, mask=inside, other=0.0)
            v = tl.load(v_tile, mask=inside, other=0.0)
        elif PADDED != WIDTH:
            k = tl.load(k_tile, mask=whole, other=0.0)
            v = tl.load(v_tile, mask=whole, other=0.0)
        else:
            k = tl.load(k_tile)
            v = tl.load(v_tile)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)  # [BM, D] @ [D, BN] -> [BM, BN]
        if CAPPED:
            s = 2.0 * tl.sigmoid(2.0 * inner * s) - 1.0  # tanh
        if MASKED:
            seen = keys[None, :] <= rows[:, None] if CAUSAL else keys[None, :] < length
            if WINDOWED:
                seen = seen & (keys[None, :] > rows[:, None] - window)
                if not CAUSAL:
                    seen = seen & (keys[None, :] < rows[:, None] + window)
            s = tl.where(seen, s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1) * outer)
        p = tl.exp2(s * outer - higher[:, None])
        fade = tl.exp2(top - higher)
        total = total * fade + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)  # [BM, BN] @ [BN, D]
        top = higher
    return acc, top, total


@triton.jit(do_not_specialize=["window"])
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, blocks_ptr, keys_ptr, heads, shared,
    q_stride, q_head, k_stride, k_head, v_stride, v_head, window, inner, outer,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, CAUSAL: tl.constexpr, GOES_ON: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0) // heads
    head = tl.program_id(0) % heads
    document = tl.load(blocks_ptr + block * 4).to(tl.int64)
    length = tl.load(blocks_ptr + block * 4 + 1)
    first = tl.multiple_of(tl.load(blocks_ptr + block * 4 + 2), BLOCK_M)

    in_block = tl.arange(0, BLOCK_M)
    channels = tl.arange(0, PADDED)
    inside = (first + in_block[:, None] < length) & (channels[None, :] < WIDTH)
    q_start = q_ptr + (document + first) * q_stride + tl.cast(head, tl.int64) * q_head
    q = tl.load(q_start + in_block[:, None] * q_stride + channels[None, :], mask=inside, other=0.0)
    out_start = out_ptr + ((document + first) * heads + head) * WIDTH
    if GOES_ON:
        number = tl.load(blocks_ptr + block * 4 + 3)
        document = tl.load(keys_ptr + number * 2).to(tl.int64)
        before = tl.load(keys_ptr + number * 2 + 1)
        first += before
        length += before
    rows = tl.minimum(first + in_block, length - 1)  # rows past the end repeat the last one and are not stored
    k_ptr += document * k_stride + tl.cast(head // shared, tl.int64) * k_head
    v_ptr += document * v_stride + tl.cast(head // shared, tl.int64) * v_head

    # Keys [low, edge) lie across the window's edge, [edge, diagonal) are seen whole, [diagonal, end) are masked.
    # If not causal, [edge, diagonal) are the whole blocks of keys, and with a window all keys are masked.
    end = tl.minimum(first + BLOCK_M, length)
    diagonal = first // BLOCK_N * BLOCK_N
    low = 0
    edge = 0
    if not CAUSAL:
        if WINDOWED:
            low = tl.maximum(first - window + 1, 0) // BLOCK_N * BLOCK_N
            end = tl.minimum(first + BLOCK_M + window - 1, length)
            edge = low
            diagonal = low
        else:
            end = length
            diagonal = length // BLOCK_N * BLOCK_N
    elif WINDOWED:
        low = tl.minimum(tl.maximum(first - window + 1, 0) // BLOCK_N * BLOCK_N, diagonal)
        edge = tl.minimum(tl.cdiv(tl.maximum(first + BLOCK_M - window, 0), BLOCK_N) * BLOCK_N, diagonal)

    acc = tl.zeros((BLOCK_M, PADDED), dtype=tl.float32)
    top = tl.full((BLOCK_M,), _LOWEST, dtype=tl.float32)
    total = tl.zeros((BLOCK_M,), dtype=tl.float32)
    if WINDOWED and CAUSAL:
        acc, top, total = _attend(
            acc, top, total, q, k_ptr, v_ptr, k_stride, v_stride, low, edge, rows, length, window, inner, outer,
            WIDTH, PADDED, BLOCK_N, PRECISION, True, WINDOWED, CAPPED, CAUSAL,
        )  # fmt: skip
    acc, top, total = _attend(
        acc, top, total, q, k_ptr, v_ptr, k_stride, v_stride, edge, diagonal, rows, length, window, inner, outer,
        WIDTH, PADDED, BLOCK_N, PRECISION, False, WINDOWED, CAPPED, CAUSAL,
    )  # fmt: skip
    acc, top, total = _attend(
        acc, top, total, q, k_ptr, v_ptr, k_stride, v_stride, diagonal, end, rows, length, window, inner, outer,
        WIDTH, PADDED, BLOCK_N, PRECISION, True, WINDOWED, CAPPED, CAUSAL,
    )  # fmt: skip

    out = (acc / total[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_start + in_block[:, None] * (heads * WIDTH) + channels[None, :], out, mask=inside)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Pack,
    scale: float,
    softcap: float | None,
    window: int | None,
    tile: Tile,
    *,
    causal: bool = True,
    keys: Pack | None = None,
) -> Tensor:
    """`kernels.attention.packed_attention` for checked arguments, in programs of `tile`."""
    _, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    blocks = blocks_of(pack, tile.queries)
    _attention_kernel[(len(blocks) * heads,)](
        q, k, v, out, blocks, None if keys is None else _keys_of(keys, pack), heads, heads // k.shape[1],
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        0 if window is None else min(window, (keys or pack).tokens),
        scale if softcap is None else scale / softcap,
        LOG2_E * (scale if softcap is None else softcap),
        WIDTH=width, PADDED=_padded(width), BLOCK_M=tile.queries, BLOCK_N=tile.keys,
        # Three TF32 products make one float32 product, on the matrix units and with few registers.
        PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32",
        WINDOWED=window is not None, CAPPED=softcap is not None, CAUSAL=causal, GOES_ON=keys is not None,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def _keys_of(keys: Pack, pack: Pack) -> Tensor:
    """Of each document its first key and the keys before its first token, [S, 2] int32; made once for the pair."""

    def make(lengths: NDArray[np.int64]) -> Table:
        return np.stack((np.cumsum(lengths) - lengths, lengths - pack.lengths), axis=1).astype(np.int32)

    return keys.table("first keys", make)


def _padded(width: int) -> int:
    """The padded width of a matrix product: a power of two, at least 16."""
    return max(16, 1 << (width - 1).bit_length())
