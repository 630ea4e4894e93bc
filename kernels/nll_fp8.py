"""The NLL of target tokens with 8-bit logits: a sum over the vocabulary in e4m3, and exact logits of the targets.

    NLL = log(Σ_{v ≠ target} exp(x'_v) + exp(x_target)) - x_target

x' are the logits of e4m3 factors, and x_target that of the factors as they were given, summed in float32. The target's
own x' is not in the sum, so the NLL is never negative, and that of a token of which the model is sure keeps its digits.
Softmax does not change if all rows of the weight are moved by one vector, so their mean is taken away first: what the
logits of a row have in common, which may be much, is not rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.e4m3 import Fp8Head, Fp8Rows
from kernels.fp8 import quantize_rows
from kernels.pack import IGNORED

_COLUMNS = 128  # the kernels need channels in multiples of this
_ENTRIES = 256  # a tile of them: filled up, so that the kernel for Hopper reads their factors without a mask
_ROWS = 1024  # whose logits the reference holds at a time


@torch.no_grad()
def quantize_head(weight: Tensor, centred: bool = True) -> Fp8Head:
    """weight [V, D] for `token_nll8`. For logits with a soft cap it must not be `centred`: no mean is taken away."""
    mean = weight.float().mean(0) if centred else torch.zeros(weight.shape[1], device=weight.device)
    return Fp8Head(weight, mean, quantize_rows(weight.float() - mean, _ENTRIES, _COLUMNS), centred)


@torch.no_grad()
def token_nll8(
    hidden: Tensor,
    head: Fp8Head,
    targets: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """`kernels.nll.token_nll` with 8-bit logits: the same arguments, with a head that was quantized.

    hidden [N, D] bfloat16, float16 or float32, rounded to e4m3 row by row. Returns [N] float32, at least 0, 0 where a
    target is -100, and NaN where it is any other number outside [0, V). A row's bits depend on that row alone. Raises
    ValueError for a soft cap with a centred head.
    """
    if softcap is not None and head.centred:
        raise ValueError("logits with a soft cap need a head that is not centred")
    rows = quantize_rows(hidden, columns=_COLUMNS)
    bias = None if bias is None else bias.float()
    if not hidden.is_cuda or not len(hidden):
        return _reference(hidden, rows, head, targets, bias, scale, softcap)
    from kernels import nll_fp8_triton, nll_hopper, nll_triton, tiles_hopper

    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    with torch.cuda.device(hidden.device):
        by = nll_hopper if tiles_hopper.supports8(rows.values, head.rows.values) else nll_triton
        tops, sums = by.partial_sums(rows, head.rows, bias, scale, softcap)
        return nll_fp8_triton.finish(hidden, rows, head, targets, bias, scale, softcap, tops, sums)


def _reference(
    hidden: Tensor,
    rows: Fp8Rows,
    head: Fp8Head,
    targets: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """The specification, in float32."""
    quantized, weights = rows.dequantize(), head.rows.dequantize()
    nll = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)

    def logits(product: Tensor, offset: Tensor | None) -> Tensor:
        x = scale * (product if offset is None else product + offset)
        return x if softcap is None else softcap * torch.tanh(x / softcap)

    for start in range(0, len(hidden), _ROWS):
        part = slice(start, start + _ROWS)
        target = targets[part]
        known = (target >= 0) & (target < len(weights))
        index = target.where(known, 0)
        exact = (hidden[part].float() * (head.weight[index].float() - head.mean)).sum(1)
        exact = logits(exact, None if bias is None else bias[index])
        x = logits(quantized[part] @ weights.T, bias).scatter_(1, index[:, None], exact[:, None])
        value = (torch.logsumexp(x, 1) - exact).clamp(min=0)
        nll[part] = value.where(known, torch.where(target == IGNORED, 0.0, torch.nan))
    return nll
