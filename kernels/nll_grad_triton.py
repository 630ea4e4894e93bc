"""Triton kernel of the NLL head in training: logits become their gradient where they lie.

For a row of logits x with target t and share s of the loss:

    NLL = log Σ_v exp(x_v) - x_t          d (s · NLL) / d x_v = s · (softmax(x)_v - [v = t])

A program takes a row: it reads it once for the maximum and the sum, and again, by then mostly from the cache, for the
gradient, which it writes over the logits. Each sum has a fixed order, so two runs give the same bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.pack import IGNORED, LOG2_E

_IGNORED, _LOG2_E = tl.constexpr(IGNORED), tl.constexpr(LOG2_E)
_BLOCK, _WARPS = 2048, 4  # logits at a time of a row, and the warps that share them


@triton.jit
def _softmax_grad(logits, targets, share, nll, n_vocabulary, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    pointers = logits + row * stride
    target = tl.load(targets + row)
    valid = (target >= 0) & (target < n_vocabulary)
    at_target = tl.load(pointers + target, mask=valid, other=0.0).to(tl.float32) * _LOG2_E
    columns = tl.arange(0, BLOCK)
    top, total = -float("inf"), 0.0
    for first in range(0, n_vocabulary, BLOCK):
        inside = first + columns < n_vocabulary
        x = tl.load(pointers + first + columns, mask=inside, other=-float("inf")).to(tl.float32) * _LOG2_E
        before = top
        top = tl.maximum(before, tl.max(x, axis=0))
        total = total * tl.exp2(before - top) + tl.sum(tl.exp2(x - top), axis=0)
    log2_sum = top + tl.log2(total)
    value = tl.where(valid, (log2_sum - at_target) / _LOG2_E, tl.where(target == _IGNORED, 0.0, float("nan")))
    tl.store(nll + row, value)
    factor = tl.where(valid, tl.load(share), 0.0)
    for first in range(0, n_vocabulary, BLOCK):
        inside = first + columns < n_vocabulary
        x = tl.load(pointers + first + columns, mask=inside, other=-float("inf")).to(tl.float32) * _LOG2_E
        gradient = factor * (tl.exp2(x - log2_sum) - tl.where(first + columns == target, 1.0, 0.0))
        tl.store(pointers + first + columns, gradient.to(logits.dtype.element_ty), mask=inside)


def softmax_grad_(logits: Tensor, targets: Tensor, share: Tensor) -> Tensor:
    """The NLL of each row [R] float32; logits [R, V] become the gradient of `share` times the sum of the NLLs.

    logits float32, float16 or bfloat16, contiguous; targets [R] int64; share a float32 scalar on the same device. A
    target of -100 gives 0 and no gradient, any other outside [0, V) NaN and no gradient.
    """
    nll = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    if len(logits):
        block = min(_BLOCK, triton.next_power_of_2(logits.shape[1]))
        _softmax_grad[(len(logits),)](
            logits, targets, share, nll, logits.shape[1], logits.stride(0), block, num_warps=_WARPS
        )
    return nll
