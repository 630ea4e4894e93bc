"""The end of the 8-bit NLL head as a Triton kernel: parts combined, the target's logit put in place exactly.

As `kernels.nll_triton.finish`. The partial sums hold the target's 8-bit logit: its exponential is taken out of their
sum, and that of the exact logit added.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.e4m3 import Fp8Head, Fp8Rows
from kernels.nll_triton import LOWEST, to_logit2
from kernels.pack import IGNORED, LOG2_E

_IGNORED, _LOG2_E, _LOWEST = (tl.constexpr(value) for value in (IGNORED, LOG2_E, LOWEST))
_ROWS = 16  # of a program


@triton.jit(do_not_specialize=["n_rows"])
def _finish(
    hidden, weight, mean, bias, rows8, row_scale, entries8, entry_scale, targets, tops, sums, nll,
    n_rows, n_vocabulary, n_parts, hidden_stride, weight_stride, width8, scale, softcap,
    D: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_SOFTCAP: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < n_rows
    target = tl.load(targets + rows, mask=inside, other=_IGNORED)
    valid = (target >= 0) & (target < n_vocabulary)
    exact = tl.zeros([ROWS, CHANNELS], tl.float32)
    rounded = tl.zeros([ROWS, CHANNELS], tl.float32)
    for channel in range(0, D, CHANNELS):
        channels = channel + tl.arange(0, CHANNELS)[None, :]
        mask = valid[:, None] & (channels < D)
        left = tl.load(hidden + rows[:, None] * hidden_stride + channels, mask=mask, other=0.0)
        right = tl.load(weight + target[:, None] * weight_stride + channels, mask=mask, other=0.0)
        middle = tl.load(mean + channels, mask=channels < D, other=0.0)
        exact += left.to(tl.float32) * (right.to(tl.float32) - middle)
        left = tl.load(rows8 + rows[:, None] * width8 + channels, mask=mask, other=0.0)
        right = tl.load(entries8 + target[:, None] * width8 + channels, mask=mask, other=0.0)
        rounded += left.to(tl.float32) * right.to(tl.float32)
    factor = tl.load(row_scale + rows, mask=valid, other=0.0) * tl.load(entry_scale + target, mask=valid, other=0.0)
    offset = 0.0
    if HAS_BIAS:
        offset = tl.load(bias + target, mask=valid, other=0.0)
    logit2 = to_logit2(tl.sum(exact, axis=1), offset, scale, softcap, HAS_SOFTCAP)
    rounded2 = to_logit2(tl.sum(rounded, axis=1) * factor, offset, scale, softcap, HAS_SOFTCAP)
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
    others = tl.maximum(total - tl.exp2(tl.minimum(rounded2 - top, 0.0)), 0.0)
    highest = tl.maximum(top, logit2)
    sum2 = highest - logit2 + tl.log2(others * tl.exp2(top - highest) + tl.exp2(logit2 - highest))
    value = tl.where(sum2 < 0.0, 0.0, sum2) / _LOG2_E
    value = tl.where(valid, value, tl.where(target == _IGNORED, 0.0, float("nan")))
    tl.store(nll + rows, value, mask=inside)


def finish(
    hidden: Tensor,
    rows: Fp8Rows,
    head: Fp8Head,
    targets: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
    tops: Tensor,
    sums: Tensor,
) -> Tensor:
    """NLLs [N] float32 in nats from the partial sums of `rows`, hidden [N, D] quantized; as `token_nll8`."""
    n_rows, D = hidden.shape
    nll = torch.empty(n_rows, dtype=torch.float32, device=hidden.device)
    _finish[(triton.cdiv(n_rows, _ROWS),)](
        hidden, head.weight, head.mean, bias, rows.values, rows.scale, head.rows.values, head.rows.scale,
        targets, tops, sums, nll,
        n_rows, len(head.weight), len(tops), hidden.stride(0), head.weight.stride(0), rows.values.shape[1], scale,
        softcap or 1.0,
        D, bias is not None, softcap is not None, _ROWS, min(128, triton.next_power_of_2(D)), num_warps=4,
    )  # fmt: skip
    return nll
