"""Negative log-likelihood of target tokens from hidden states, without ever holding all logits at once."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.pack import IGNORED

_KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_KERNEL_CHANNELS = 16  # the kernels need a multiple of so many channels
_CPU_LOGITS = 1 << 21  # logits held at a time on a CPU: 8 MiB in float32, near its caches
_CPU_MIN_ROWS = 256  # enough rows that a large vocabulary's product stays a matrix product
_GPU_ROWS = 4096
_GPU_TRAINED_ROWS = 4096  # in training: 0.4 GB of bfloat16 logits of a vocabulary of 50,000


def _rows_at_a_time(hidden: Tensor, vocabulary: int) -> int:
    """A fixed rule, of the device's kind and the vocabulary only, so that the same rows always give the same bits."""
    return _GPU_ROWS if hidden.is_cuda else max(_CPU_MIN_ROWS, _CPU_LOGITS // vocabulary)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Logits in float32 of a product in hidden's dtype: [R, D] @ [D, V] -> [R, V]."""
    return F.linear(hidden, weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)).float()


def _with_kernels(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, scale: float, softcap: float | None
) -> Tensor:
    """`token_nll` on a CUDA device."""
    if hidden.dtype not in _KERNEL_DTYPES:
        raise ValueError(f"on a GPU the NLL needs float32, float16 or bfloat16, not {hidden.dtype}")
    if lacking := -hidden.shape[1] % _KERNEL_CHANNELS:
        hidden, weight = F.pad(hidden, (0, lacking)), F.pad(weight, (0, lacking))  # zeros change no logit
    # Imported here because they need Triton, which a machine without a GPU may lack.
    from kernels import nll_hopper, nll_triton, tiles_hopper

    hidden, weight = (x if x.stride(1) == 1 else x.contiguous() for x in (hidden, weight.to(hidden.dtype)))
    bias = None if bias is None else bias.float()
    with torch.cuda.device(hidden.device):
        partial_sums = nll_hopper.partial_sums if tiles_hopper.supports(hidden, weight) else nll_triton.partial_sums
        tops, sums = partial_sums(hidden, weight, bias, scale, softcap)
        return nll_triton.finish(hidden, weight, targets, bias, scale, softcap, tops, sums)


@torch.no_grad()
def token_nll(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """-log softmax(logits)[target] of each row, in nats, where logits = cap(scale · (hidden @ weight.T + bias)).

    hidden [N, D], weight [V, D] (any dtype; the product runs in hidden's), targets [N] int64 in [0, V) or -100 for a
    row that is not scored, bias [V], scale above 0, cap(x) = softcap · tanh(x / softcap) or nothing. Returns [N]
    float32, 0 where not scored. The softmax runs over all V rows, padded ones included, in float32. A row's bits
    depend on that row alone, not on N or on the other rows. Forward only; a training step takes `mean_nll`.

    On a GPU logits stay on chip; hidden is float32 (multiplied in full precision), float16 or bfloat16, else
    ValueError, and a target out of range gives NaN. D is best a multiple of 16: else both factors are padded first.
    """
    if scale <= 0 or (softcap is not None and softcap <= 0):
        raise ValueError(f"scale and softcap must be above 0, not {scale} and {softcap}")
    if hidden.is_cuda and len(hidden) > 0:
        return _with_kernels(hidden, weight, targets, bias, scale, softcap)
    out = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    step = _rows_at_a_time(hidden, len(weight))
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logits = _logits(hidden[rows], weight, bias)
        if scale != 1:
            logits.mul_(scale)
        if softcap is not None:
            logits.div_(softcap).tanh_().mul_(softcap)
        # Not torch.logsumexp, which is three times slower on a CPU.
        out[rows] = F.cross_entropy(logits, targets[rows], ignore_index=IGNORED, reduction="none")
    return out


class _MeanNll(torch.autograd.Function):
    """The mean of token NLLs, with both gradients computed in the forward pass, chunk by chunk of logits."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        share = 1.0 / (targets != IGNORED).sum().clamp(min=1)  # of the mean; stays on the device
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        head = weight.to(hidden.dtype)
        step = _GPU_TRAINED_ROWS if hidden.is_cuda else _rows_at_a_time(hidden, len(weight))
        for start in range(0, len(hidden), step):
            rows = slice(start, start + step)
            logits = F.linear(hidden[rows], head)
            nll[rows] = _softmax_grad_(logits, targets[rows], share)
            torch.mm(logits, head, out=grad_hidden[rows])  # [R, V] @ [V, D]
            _add_product(grad_weight, logits.T, hidden[rows])  # [V, R] @ [R, D]
            del logits  # or the next chunk would be made beside it
        ctx.save_for_backward(grad_hidden, grad_weight.to(weight.dtype))
        return nll.sum() * share

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grads[0].to(grad_hidden.dtype), grad_weight * grads[0].to(grad_weight.dtype), None


def _softmax_grad_(logits: Tensor, targets: Tensor, share: Tensor) -> Tensor:
    """NLLs [R] float32 of logits [R, V], which become the gradient of `share` times their sum."""
    if logits.is_cuda:
        from kernels.nll_grad_triton import softmax_grad_

        return softmax_grad_(logits, targets, share)
    index = targets.clamp(min=0)[:, None]
    scored = (targets != IGNORED)[:, None]
    wide = logits.float()  # the same memory if logits are float32
    target = wide.gather(1, index)
    top = wide.amax(dim=1, keepdim=True)
    sums = wide.sub_(top).exp_().sum(dim=1, keepdim=True)
    factor = scored * share
    wide.mul_(factor / sums).scatter_add_(1, index, -factor)
    if wide is not logits:
        logits.copy_(wide)
    return ((top + sums.log() - target) * scored)[:, 0]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, with total in float32 and summed in it, whatever the factors' dtype."""
    if a.dtype == torch.float32:
        total.addmm_(a, b)
    elif a.is_cuda:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += a @ b


def mean_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean of `token_nll` over the scored rows, differentiable in hidden and weight.

    hidden [N, D], weight [V, D], targets [N] int64 in [0, V) or -100 for rows left out. Returns a float32 scalar in
    nats. Logits, and their gradient in their place, have hidden's dtype, and exist for some rows at a time; the
    gradient of weight is summed in float32. Two runs give the same bits.
    """
    return _MeanNll.apply(hidden, weight, targets)  # type: ignore[no-any-return, no-untyped-call]
