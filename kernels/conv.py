"""Causal depthwise convolution with SiLU, the short filter in front of the SSD in a Mamba-2 mixer."""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial_state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Filter every channel over time with the inputs before it, then SiLU.

    y[t, c] = silu(bias[c] + sum_k weight[c, k] · x[t - (K-1) + k, c]), where inputs before the start are zero or
    come from `initial_state` (the convolution of Mamba, Gu and Dao, https://arxiv.org/abs/2312.00752, section 3.4).

    x [B, L, C], weight [C, K], bias [C], initial_state [B, K-1, C] (the last K-1 inputs of what came before).
    Returns y [B, L, C] in x's dtype and the final state [B, K-1, C], with which the sequence goes on.
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
    if bias is not None:
        y = y + bias.to(x.dtype)
    return F.silu(y), padded[:, length:]
