"""Causal depthwise convolution, the short filter in a Mamba-2 mixer (with SiLU) and in a hybrid's attention."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.pack import Pack

WIDEST = 8  # taps of the packed form
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
    silu: bool = True,
) -> tuple[Tensor, Tensor]:
    """Filter every channel over time with the inputs before it, then SiLU unless `silu` is False.

    y[t, c] = silu(bias[c] + sum_k weight[c, k] · x[t - (K-1) + k, c]), where inputs before the start are zero or
    come from `initial_state` (the convolution of Mamba, Gu and Dao, https://arxiv.org/abs/2312.00752, section 3.4).

    x [B, L, C], weight [C, K], bias [C], initial_state [B, K-1, C] (the last K-1 inputs before x), positions [B, L] of
    each token in its document, if x has several: inputs of another one are zero.
    Returns y [B, L, C] in x's dtype and the final state [B, K-1, C], with which the sequence can be continued.
    """
    length, kernel = x.shape[1], weight.shape[1]
    if initial_state is None:
        padded = F.pad(x, (0, 0, kernel - 1, 0))
    else:
        padded = torch.cat((initial_state.to(x.dtype), x), dim=1)
    # A sum of K shifted products in place of conv1d: no transpose to channels-first, and the same sum at any length.
    taps = weight.to(x.dtype).unbind(1)
    y = padded[:, :length] * taps[0]
    for k in range(1, kernel):
        y = torch.addcmul(y, padded[:, k : k + length], taps[k])
    if positions is not None:  # the few products with another document's inputs are taken out again
        for k in range(kernel - 1):
            row, at = (positions < kernel - 1 - k).nonzero(as_tuple=True)
            y = y.index_put_((row, at), -padded[row, at + k] * taps[k], accumulate=True)
    if bias is not None:
        y = y + bias.to(x.dtype)
    return F.silu(y) if silu else y, padded[:, length:]


def packed_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pack: Pack,
    initial_state: Tensor | None = None,
    keep_state: bool = False,
    scale: Tensor | None = None,
    positions: Tensor | None = None,
    silu: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """`causal_conv1d` over each document of a pack, of x or of scale · x.

    x [T, C] float32, float16 or bfloat16 for the T tokens of `pack`, channels contiguous, rows of any stride, as in a
    slice of a projection's output; weight [C, K] with K from 2 to 8; bias [C] or None; initial_state [S, K-1, C] for
    the S documents, or None for zeros; scale [T] float32, for rows that are not yet normed; positions [T] integers,
    where documents of the pack are rows of shorter ones: of each token in its own.

    Returns y [T, C] in x's dtype, contiguous, and with `keep_state` the final states [S, K-1, C] in x's dtype, else
    None. Products and sums are float32. A document's result has the same bits wherever it lies in a pack. Forward only;
    `packed_conv1d_backward` has the gradients. Raises ValueError for unsupported arguments.
    """
    _check(x, weight, bias, pack, initial_state, scale, positions)
    if x.is_cuda:
        from kernels.conv_triton import conv1d

        return conv1d(x, weight, bias, pack, initial_state, keep_state, scale, positions, silu)
    y, states = packed_conv1d_reference(x, weight, bias, pack, initial_state, scale, positions, silu)
    return y, states if keep_state else None


@torch.no_grad()
def packed_conv1d_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pack: Pack,
    positions: Tensor | None = None,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of x, weight and bias of `packed_conv1d`, given `grad` [T, C], that of its y; without states.

    That of x is written to `out` [T, C], rows of any stride, or to a new tensor like x; those of weight and bias are
    float32. The sums under the SiLU are made again. The same inputs give the same bits. Raises ValueError for
    unsupported arguments.
    """
    _check(x, weight, bias, pack, None, None, positions)
    if grad.shape != x.shape or grad.dtype != x.dtype or (x.shape[1] > 1 and grad.stride(1) != 1):
        raise ValueError(f"the gradient must be like x, {[*x.shape]} {x.dtype}; got {[*grad.shape]} {grad.dtype}")
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    if x.is_cuda:
        from kernels.conv_backward_triton import conv1d_backward

        of_weight, of_shift = conv1d_backward(grad, x, weight, bias, pack, positions, out)
        return out, of_weight, None if bias is None else of_shift
    of_x, of_weight, of_bias = packed_conv1d_backward_reference(grad, x, weight, bias, pack, positions)
    return out.copy_(of_x), of_weight, of_bias


def packed_conv1d_backward_reference(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack, positions: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The specification: torch's own gradients of `causal_conv1d`, document by document, in the inputs' dtypes."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    bias = None if bias is None else bias.detach().requires_grad_()
    inputs = [x, weight] if bias is None else [x, weight, bias]
    ends = np.cumsum(pack.lengths).tolist()
    with torch.enable_grad():
        ys = []
        for start, end in zip([0, *ends], ends, strict=False):
            within = None if positions is None else positions[None, start:end]
            ys.append(causal_conv1d(x[None, start:end], weight, bias, None, within)[0][0])
        y = torch.cat(ys)
    of_x, of_weight, *of_bias = torch.autograd.grad(y, inputs, grad)
    return of_x, of_weight, of_bias[0] if of_bias else None


@torch.no_grad()
def packed_conv1d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pack: Pack,
    initial_state: Tensor | None,
    scale: Tensor | None = None,
    positions: Tensor | None = None,
    silu: bool = True,
) -> tuple[Tensor, Tensor]:
    """The specification: y and the states in torch, document by document, in float32, or float64 if x is."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    states = x.new_empty(len(pack.lengths), weight.shape[1] - 1, x.shape[1])
    start = 0
    for i, length in enumerate(pack.lengths.tolist()):
        document = slice(start, start + length)
        before = None if initial_state is None else initial_state[i, None].to(x.dtype)
        inputs = x[document].to(wide)
        if scale is not None:
            inputs = inputs * scale[document, None]
        within = None if positions is None else positions[None, document]
        y, after = causal_conv1d(inputs[None], weight, bias, before, within, silu)
        out[document], states[i] = y[0].to(x.dtype), after[0].to(x.dtype)
        start += length
    return out, states


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    pack: Pack,
    initial_state: Tensor | None,
    scale: Tensor | None,
    positions: Tensor | None,
) -> None:
    if x.dim() != 2 or weight.dim() != 2 or len(weight) != x.shape[1]:
        raise ValueError(f"x must be [T, C] and weight [C, K]; got {[*x.shape]} and {[*weight.shape]}")
    tokens, channels = x.shape
    kernel = weight.shape[1]
    if tokens != pack.tokens:
        raise ValueError(f"the pack has {pack.tokens} tokens, x has {tokens}")
    if not 2 <= kernel <= WIDEST:
        raise ValueError(f"the filter has {kernel} taps; it must have 2 to {WIDEST}")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias must be [{channels}]; got {[*bias.shape]}")
    if initial_state is not None and initial_state.shape != (len(pack.lengths), kernel - 1, channels):
        wanted = [len(pack.lengths), kernel - 1, channels]
        raise ValueError(f"initial_state must be {wanted}; got {[*initial_state.shape]}")
    if scale is not None and scale.shape != (tokens,):
        raise ValueError(f"scale must be [{tokens}]; got {[*scale.shape]}")
    if positions is not None and positions.shape != (tokens,):
        raise ValueError(f"positions must be [{tokens}]; got {[*positions.shape]}")
    if x.dtype not in _DTYPES:
        raise ValueError(f"x must be float32, float16 or bfloat16; got {x.dtype}")
    if any(m.device != x.device for m in (weight, bias, initial_state, scale, positions, pack) if m is not None):
        raise ValueError("x, weight, bias, initial_state, scale and the pack must lie on one device")
    if channels > 1 and x.stride(1) != 1:
        raise ValueError("the channels of x must be contiguous")
