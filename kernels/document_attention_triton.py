"""Triton kernels of attention in training, forward and backward, over documents laid end to end.

With s = q kᵀ / sqrt(D) and P = softmax(s), where a token sees its own document up to itself, and dO given:

    O = P V     dV = Pᵀ dO     dS = P ∘ (dO Vᵀ - δ), δ the sum of dO ∘ O over a row     dQ = dS K / sqrt(D)
    dK = dSᵀ Q / sqrt(D)                                      (Dao et al., https://arxiv.org/abs/2205.14135, appendix B)

`_forward` and `_grad_queries` have a program for a block of queries and a head, which walks the blocks of keys from the
start of its first document to the diagonal; `_grad_keys` one for a block of keys, which walks the queries to the end of
its last document. No sum is shared by programs, so two runs give the same bits. Only blocks on the diagonal or beside a
document's border are masked. P is made again from the logarithm of each row's sum, in base 2, that `_forward` leaves.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.pack import LOG2_E

_UNSEEN = tl.constexpr(-1e30)  # a score that is not seen; finite, so that a block without any does not give NaN


class Tile(NamedTuple):
    """The block that a program owns, the block of a step of its walk, and how it is compiled."""

    own: int
    step: int
    warps: int
    stages: int


# For each kernel: 16-bit inputs on Hopper and newer, on older devices, and float32.
FORWARD = Tile(64, 64, 4, 3), Tile(64, 64, 4, 2), Tile(32, 32, 4, 1)
GRAD_QUERIES = Tile(64, 64, 4, 3), Tile(64, 32, 4, 2), Tile(32, 32, 4, 1)
GRAD_KEYS = Tile(64, 64, 4, 2), Tile(64, 32, 4, 2), Tile(32, 32, 4, 1)


def _tile(tiles: tuple[Tile, Tile, Tile], x: Tensor) -> Tile:
    if x.dtype == torch.float32:
        return tiles[2]
    return tiles[0] if x.is_cuda and torch.cuda.get_device_capability(x.device)[0] >= 9 else tiles[1]


@triton.jit
def _block(base, rows, n_rows, stride, D: tl.constexpr):
    """Rows of a matrix of width D, [R, D]; zeros past the end."""
    offsets = rows.to(tl.int64)[:, None] * stride + tl.arange(0, D)[None, :]
    return tl.load(base + offsets, mask=rows[:, None] < n_rows, other=0.0)


@triton.jit
def _walk_forward(
    q, top, total, out, keys_base, values_base, rows, starts, low, high, n_rows, stride, scale2,
    MASKED: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    for first in range(low, high, STEP):
        keys = first + tl.arange(0, STEP)
        k = _block(keys_base, keys, n_rows, stride, D)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2
        if MASKED:
            seen = (keys[None, :] <= rows[:, None]) & (keys[None, :] >= starts[:, None])
            score = tl.where(seen, score, _UNSEEN)
        before = top
        top = tl.maximum(before, tl.max(score, axis=1))
        p = tl.exp2(score - top[:, None])
        rescale = tl.exp2(before - top)
        total = total * rescale + tl.sum(p, axis=1)
        v = _block(values_base, keys, n_rows, stride, D)
        out = tl.dot(p.to(v.dtype), v, out * rescale[:, None], input_precision="ieee")
    return top, total, out


@triton.jit
def _borders(starts, rows, own, n_rows, STEP: tl.constexpr):
    """The first key that a block of queries from `own` on sees, and the first that all of them see; by steps."""
    low = tl.min(starts, axis=0) // STEP * STEP
    common = tl.max(tl.where(rows < n_rows, starts, 0), axis=0)
    return low, tl.minimum((common + STEP - 1) // STEP * STEP, own)


@triton.jit(do_not_specialize=["n_rows"])
def _forward(
    qkv, positions, out, log_sums, n_rows, stride, scale2,
    H: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    own = tl.program_id(0) * OWN
    rows = own + tl.arange(0, OWN)
    inside = rows < n_rows
    starts = rows - tl.load(positions + rows, mask=inside, other=0).to(tl.int32)
    low, common = _borders(starts, rows, own, n_rows, STEP)
    queries, keys, values = qkv + head * D, qkv + (H + head) * D, qkv + (2 * H + head) * D
    q = _block(queries, rows, n_rows, stride, D)
    top = tl.full([OWN], _UNSEEN, tl.float32)
    total = tl.zeros([OWN], tl.float32)
    o = tl.zeros([OWN, D], tl.float32)
    top, total, o = _walk_forward(
        q, top, total, o, keys, values, rows, starts, low, common, n_rows, stride, scale2, True, D, STEP
    )
    top, total, o = _walk_forward(
        q, top, total, o, keys, values, rows, starts, common, own, n_rows, stride, scale2, False, D, STEP
    )
    top, total, o = _walk_forward(
        q, top, total, o, keys, values, rows, starts, own, own + OWN, n_rows, stride, scale2, True, D, STEP
    )
    offsets = rows.to(tl.int64)[:, None] * (H * D) + head * D + tl.arange(0, D)[None, :]
    tl.store(out + offsets, (o / total[:, None]).to(out.dtype.element_ty), mask=inside[:, None])
    tl.store(log_sums + head.to(tl.int64) * n_rows + rows, top + tl.log2(total), mask=inside)


@triton.jit
def _walk_queries(
    dq, q, do, log_sum, delta, keys_base, values_base, rows, starts, low, high, n_rows, stride, scale2,
    MASKED: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    for first in range(low, high, STEP):
        keys = first + tl.arange(0, STEP)
        k = _block(keys_base, keys, n_rows, stride, D)
        v = _block(values_base, keys, n_rows, stride, D)
        p = tl.exp2(tl.dot(q, tl.trans(k), input_precision="ieee") * scale2 - log_sum[:, None])
        if MASKED:
            p = tl.where((keys[None, :] <= rows[:, None]) & (keys[None, :] >= starts[:, None]), p, 0.0)
        ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    return dq


@triton.jit(do_not_specialize=["n_rows"])
def _grad_queries(
    grad, qkv, out, log_sums, positions, deltas, dqkv, n_rows, stride, scale, scale2,
    H: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    own = tl.program_id(0) * OWN
    rows = own + tl.arange(0, OWN)
    inside = rows < n_rows
    starts = rows - tl.load(positions + rows, mask=inside, other=0).to(tl.int32)
    low, common = _borders(starts, rows, own, n_rows, STEP)
    queries, keys, values = qkv + head * D, qkv + (H + head) * D, qkv + (2 * H + head) * D
    q = _block(queries, rows, n_rows, stride, D)
    do = _block(grad + head * D, rows, n_rows, H * D, D)
    o = _block(out + head * D, rows, n_rows, H * D, D)
    delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), axis=1)
    by_row = head.to(tl.int64) * n_rows + rows
    tl.store(deltas + by_row, delta, mask=inside)
    log_sum = tl.load(log_sums + by_row, mask=inside, other=0.0)
    dq = tl.zeros([OWN, D], tl.float32)
    dq = _walk_queries(
        dq, q, do, log_sum, delta, keys, values, rows, starts, low, common, n_rows, stride, scale2, True, D, STEP
    )
    dq = _walk_queries(
        dq, q, do, log_sum, delta, keys, values, rows, starts, common, own, n_rows, stride, scale2, False, D, STEP
    )
    dq = _walk_queries(
        dq, q, do, log_sum, delta, keys, values, rows, starts, own, own + OWN, n_rows, stride, scale2, True, D, STEP
    )
    offsets = rows.to(tl.int64)[:, None] * stride + head * D + tl.arange(0, D)[None, :]
    tl.store(dqkv + offsets, (dq * scale).to(dqkv.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _walk_keys(
    dk, dv, k, v, queries_base, grad_base, log_sums, deltas, positions, keys, low, high, n_rows, stride, grad_stride,
    scale2, MASKED: tl.constexpr, D: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    for first in range(low, high, STEP):
        rows = first + tl.arange(0, STEP)
        inside = rows < n_rows
        q = _block(queries_base, rows, n_rows, stride, D)
        do = _block(grad_base, rows, n_rows, grad_stride, D)
        log_sum = tl.load(log_sums + rows, mask=inside, other=float("inf"))  # so that p is 0 past the end
        delta = tl.load(deltas + rows, mask=inside, other=0.0)
        p = tl.exp2(tl.dot(k, tl.trans(q), input_precision="ieee") * scale2 - log_sum[None, :])
        if MASKED:
            starts = rows - tl.load(positions + rows, mask=inside, other=0).to(tl.int32)
            p = tl.where((keys[:, None] <= rows[None, :]) & (keys[:, None] >= starts[None, :]), p, 0.0)
        dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
        ds = p * (tl.dot(v, tl.trans(do), input_precision="ieee") - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit(do_not_specialize=["n_rows"])
def _grad_keys(
    grad, qkv, log_sums, positions, ends, deltas, dqkv, n_rows, stride, scale, scale2,
    H: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    own = tl.program_id(0) * OWN
    keys = own + tl.arange(0, OWN)
    queries = qkv + head * D
    k = _block(qkv + (H + head) * D, keys, n_rows, stride, D)
    v = _block(qkv + (2 * H + head) * D, keys, n_rows, stride, D)
    beyond = own + OWN  # queries past the diagonal
    # All keys are seen as long as the first one's document goes on, some as long as the last one's does.
    common = tl.load(ends + own).to(tl.int32) // STEP * STEP
    high = tl.load(ends + tl.minimum(beyond, n_rows) - 1).to(tl.int32)
    common = tl.maximum(common, beyond)
    log_sums += head.to(tl.int64) * n_rows
    deltas += head.to(tl.int64) * n_rows
    gradient = grad + head * D
    dk = tl.zeros([OWN, D], tl.float32)
    dv = tl.zeros([OWN, D], tl.float32)
    dk, dv = _walk_keys(
        dk, dv, k, v, queries, gradient, log_sums, deltas, positions, keys, own, beyond, n_rows, stride, H * D,
        scale2, True, D, STEP,
    )  # fmt: skip
    dk, dv = _walk_keys(
        dk, dv, k, v, queries, gradient, log_sums, deltas, positions, keys, beyond, common, n_rows, stride, H * D,
        scale2, False, D, STEP,
    )  # fmt: skip
    dk, dv = _walk_keys(
        dk, dv, k, v, queries, gradient, log_sums, deltas, positions, keys, common, high, n_rows, stride, H * D,
        scale2, True, D, STEP,
    )  # fmt: skip
    offsets = keys.to(tl.int64)[:, None] * stride + head * D + tl.arange(0, D)[None, :]
    inside = keys[:, None] < n_rows
    tl.store(dqkv + H * D + offsets, (dk * scale).to(dqkv.dtype.element_ty), mask=inside)
    tl.store(dqkv + 2 * H * D + offsets, dv.to(dqkv.dtype.element_ty), mask=inside)


def forward(qkv: Tensor, positions: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Attention [N, H·D] and log2 of the rows' sums [H, N] float32.

    qkv [N, 3·H·D] float32 (full precision), float16 or bfloat16; positions [N] int64.
    """
    qkv = qkv.contiguous()
    n_rows, width = qkv.shape[0], qkv.shape[1] // (3 * heads)
    out = qkv.new_empty((n_rows, heads * width))
    log_sums = qkv.new_empty((heads, n_rows), dtype=torch.float32)
    tile = _tile(FORWARD, qkv)
    _forward[triton.cdiv(n_rows, tile.own), heads](
        qkv, positions, out, log_sums, n_rows, qkv.stride(0), LOG2_E / width**0.5,
        heads, width, tile.own, tile.step, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out, log_sums


def backward(
    grad: Tensor, qkv: Tensor, out: Tensor, log_sums: Tensor, positions: Tensor, ends: Tensor, heads: int
) -> Tensor:
    """The gradient of qkv from that of what `forward` gave, [N, H·D]; `ends` [N] int64 as in `document_attention`."""
    qkv, grad = qkv.contiguous(), grad.contiguous()
    n_rows, width = qkv.shape[0], qkv.shape[1] // (3 * heads)
    dqkv, deltas = torch.empty_like(qkv), torch.empty_like(log_sums)
    scale = 1 / width**0.5
    tile = _tile(GRAD_QUERIES, qkv)
    _grad_queries[triton.cdiv(n_rows, tile.own), heads](
        grad, qkv, out, log_sums, positions, deltas, dqkv, n_rows, qkv.stride(0), scale, LOG2_E * scale,
        heads, width, tile.own, tile.step, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    tile = _tile(GRAD_KEYS, qkv)
    _grad_keys[triton.cdiv(n_rows, tile.own), heads](
        grad, qkv, log_sums, positions, ends, deltas, dqkv, n_rows, qkv.stride(0), scale, LOG2_E * scale,
        heads, width, tile.own, tile.step, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return dqkv
