"""Triton kernels of the NLL head: a sum of exponentials for each row and part of the vocabulary, and their combination.

    NLL = log Σ_v exp(x_v) - x_target,   x = cap(scale · (hidden @ weight.T + bias))

where cap(x) = softcap · tanh(x / softcap), or x.

`partial_sums` splits the vocabulary into parts of PART entries. For each row and part it goes through the logits tile
by tile, in registers, and writes their maximum m and Σ 2^(x - m), both of logits in base 2 (times log2 e). `finish`
combines the parts of a row, in order, and takes the target's logit from a float32 product of its own. Parts, tiles and
order depend only on the shape of weight and the device, so that a row's bits do not depend on the other rows.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.e4m3 import E4M3, Fp8Rows, parts
from kernels.pack import IGNORED, LOG2_E

PART = 1024  # vocabulary entries that share a maximum and a sum
LOWEST = -1e30  # below any logit, and finite: a part whose entries are all -inf adds 0, not NaN
_IGNORED, _PART, _LOG2_E, _LOWEST = (tl.constexpr(value) for value in (IGNORED, PART, LOG2_E, LOWEST))


class Tile(NamedTuple):
    """The shape of a program's product, its warps and its pipeline stages."""

    rows: int
    vocabulary: int
    channels: int
    warps: int
    stages: int


_SMALL = Tile(rows=128, vocabulary=128, channels=32, warps=8, stages=4)  # 64 KiB of shared memory: any GPU since sm_80
_LARGE = Tile(rows=128, vocabulary=128, channels=64, warps=8, stages=4)
_FLOAT32 = Tile(rows=64, vocabulary=64, channels=16, warps=8, stages=3)
_EIGHT = Tile(rows=128, vocabulary=128, channels=128, warps=8, stages=3)
_TILES = {9: _LARGE, 10: _LARGE}  # of 16-bit inputs, by major compute capability


def _tile(hidden: Tensor) -> Tile:
    if hidden.dtype == torch.float32:
        return _FLOAT32
    if hidden.dtype == E4M3:
        return _EIGHT
    tile = _TILES.get(torch.cuda.get_device_capability(hidden.device)[0], _SMALL) if hidden.is_cuda else _SMALL
    # The largest power of two that divides D, at most the tile's.
    return tile._replace(channels=min(tile.channels, hidden.shape[1] & -hidden.shape[1]))


@triton.jit
def to_logit2(product, bias, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """The logit in base 2 of a product of hidden and weight."""
    x = (product + bias) * scale
    if HAS_SOFTCAP:  # tanh(z) = 1 - 2 / (e^2z + 1)
        x = softcap * (1 - 2 / (tl.exp2(x * (2 * _LOG2_E / softcap)) + 1))
    return x * _LOG2_E


@triton.jit(do_not_specialize=["n_rows"])
def _partial_sums(
    hidden, weight, bias, row_scale, entry_scale, tops, sums,
    n_rows, n_vocabulary, hidden_stride, weight_stride, scale, softcap,
    D: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_SCALES: tl.constexpr,
    ROWS: tl.constexpr, VOCABULARY: tl.constexpr, CHANNELS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    # Rows past the end repeat the last one and are not stored; entries past the end repeat the last and are masked.
    row_pointers = hidden + tl.minimum(rows, n_rows - 1).to(tl.int64)[:, None] * hidden_stride
    channels = tl.arange(0, CHANNELS)
    if HAS_SCALES:
        row_factor = tl.load(row_scale + rows, mask=rows < n_rows, other=0.0)
    top = tl.full([ROWS], _LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for first in range(part * _PART, tl.minimum(part * _PART + _PART, n_vocabulary), VOCABULARY):
        entries = first + tl.arange(0, VOCABULARY)
        entry_pointers = weight + tl.minimum(entries, n_vocabulary - 1).to(tl.int64)[None, :] * weight_stride
        product = tl.zeros([ROWS, VOCABULARY], tl.float32)
        for channel in tl.range(0, D, CHANNELS, num_stages=STAGES):
            left = tl.load(row_pointers + channel + channels[None, :])
            right = tl.load(entry_pointers + channel + channels[:, None])
            product = tl.dot(left, right, product, input_precision="ieee")
        if HAS_SCALES:
            factor = tl.load(entry_scale + entries, mask=entries < n_vocabulary, other=0.0)
            product = product * row_factor[:, None] * factor[None, :]
        offset = 0.0
        if HAS_BIAS:
            offset = tl.load(bias + entries, mask=entries < n_vocabulary, other=0.0)[None, :]
        x = to_logit2(product, offset, scale, softcap, HAS_SOFTCAP)
        x = tl.where(entries[None, :] < n_vocabulary, x, -float("inf"))
        before = top
        top = tl.maximum(before, tl.max(x, axis=1))
        total = total * tl.exp2(before - top) + tl.sum(tl.exp2(x - top[:, None]), axis=1)
    out = part.to(tl.int64) * n_rows + rows
    tl.store(tops + out, top, mask=rows < n_rows)
    tl.store(sums + out, total, mask=rows < n_rows)


@triton.jit(do_not_specialize=["n_rows"])
def _finish(
    hidden, weight, bias, targets, tops, sums, nll,
    n_rows, n_vocabulary, n_parts, hidden_stride, weight_stride, scale, softcap,
    D: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_rows
    target = tl.load(targets + rows, mask=inside, other=_IGNORED)
    valid = (target >= 0) & (target < n_vocabulary)
    products = tl.zeros([ROWS, CHANNELS], tl.float32)
    for channel in range(0, D, CHANNELS):
        channels = channel + tl.arange(0, CHANNELS)[None, :]
        mask = valid[:, None] & (channels < D)
        left = tl.load(hidden + rows[:, None] * hidden_stride + channels, mask=mask, other=0.0)
        right = tl.load(weight + target[:, None] * weight_stride + channels, mask=mask, other=0.0)
        products += left.to(tl.float32) * right.to(tl.float32)
    offset = 0.0
    if HAS_BIAS:
        offset = tl.load(bias + target, mask=valid, other=0.0)
    logit2 = to_logit2(tl.sum(products, axis=1), offset, scale, softcap, HAS_SOFTCAP)
    top = tl.full([ROWS], _LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for _part in range(n_parts):
        part_top = tl.load(tops + rows, mask=inside, other=_LOWEST)
        part_total = tl.load(sums + rows, mask=inside, other=1.0)
        tops += n_rows
        sums += n_rows
        before = top
        top = tl.maximum(before, part_top)
        total = total * tl.exp2(before - top) + part_total * tl.exp2(part_top - top)
    value = (top - logit2 + tl.log2(total)) / _LOG2_E
    value = tl.where(valid, value, tl.where(target == _IGNORED, 0.0, float("nan")))
    tl.store(nll + rows, value, mask=inside)


def partial_sums(
    hidden: Tensor | Fp8Rows,
    weight: Tensor | Fp8Rows,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Maximum m and Σ 2^(x - m) of each part's logits in base 2, [parts, N] float32 each, in plain Triton.

    hidden [N, D] and weight [V, D] of one dtype, float32, float16 or bfloat16, D a multiple of 16, contiguous in D;
    bias [V]. float32 is multiplied in full precision. Or both quantized, with D a multiple of 128.
    """
    (x, of_rows, n_rows), (entries, of_entries, n_vocabulary) = parts(hidden), parts(weight)
    D = x.shape[1]
    tile = _tile(x)
    tops, sums = torch.empty((2, triton.cdiv(n_vocabulary, PART), n_rows), dtype=torch.float32, device=x.device)
    _partial_sums[triton.cdiv(n_rows, tile.rows), len(tops)](
        x, entries, bias, tops if of_rows is None else of_rows, tops if of_entries is None else of_entries, tops, sums,
        n_rows, n_vocabulary, x.stride(0), entries.stride(0), scale, softcap or 1.0,
        D, bias is not None, softcap is not None, of_rows is not None,
        tile.rows, tile.vocabulary, tile.channels, tile.stages, num_warps=tile.warps,
    )  # fmt: skip
    return tops, sums


def finish(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    tops: Tensor,
    sums: Tensor,
) -> Tensor:
    """NLLs [N] float32 in nats from the partial sums; the other arguments as in `partial_sums`, targets [N] int64.

    0 where the target is -100; NaN where it is any other number outside [0, V).
    """
    n_rows, D = hidden.shape
    nll = torch.empty(n_rows, dtype=torch.float32, device=hidden.device)
    rows = 16
    _finish[(triton.cdiv(n_rows, rows),)](
        hidden, weight, bias, targets, tops, sums, nll,
        n_rows, len(weight), len(tops), hidden.stride(0), weight.stride(0), scale, softcap or 1.0,
        D, bias is not None, softcap is not None, rows, min(128, triton.next_power_of_2(D)), num_warps=4,
    )  # fmt: skip
    return nll
