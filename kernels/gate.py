"""The gate of an MLP: the product of one half of its hidden features and the SiLU of the other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def gated(x: Tensor) -> Tensor:
    """y · silu(gate): x [..., 2 N] has y in the first N channels and the gate in the others; [..., N] in x's dtype.

    On a GPU products are float32, without gradients; x is contiguous there. Elsewhere differentiable.
    """
    if x.is_cuda and x.dtype in _DTYPES and not (torch.is_grad_enabled() and x.requires_grad):
        from kernels.gate_triton import gated_rows

        return gated_rows(x.flatten(0, -2).contiguous()).view(*x.shape[:-1], -1)
    y, gate = x.chunk(2, dim=-1)
    return y * F.silu(gate)
