"""Muon: momentum whose matrices are made orthogonal before a step (Jordan, https://kellerjordan.github.io/posts/muon/).

torch.optim.Muon takes one matrix after the other: 70 ms a step for the 48 matrices of GPT-2 small on an H200. Here
matrices of one shape are one batched product, which takes 4 ms.
"""

from __future__ import annotations

import torch
from torch import Tensor

Part = tuple[slice, slice]  # rows and columns of a parameter

_ITERATIONS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end in about [0.7, 1.2]
_MOMENTUM = 0.95
_RMS = 0.2  # of AdamW's steps (Liu et al., https://arxiv.org/abs/2502.16982)
_EPS = 1e-7


def orthogonal(m: Tensor) -> Tensor:
    """The nearest orthogonal matrices, roughly, by Newton-Schulz iterations: [N, R, C] -> [N, R, C].

    On a GPU in bfloat16, which the iteration forgives, elsewhere in m's dtype. Returns that dtype.
    """
    a, b, c = _COEFFICIENTS
    x = m.bfloat16() if m.is_cuda else m
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(_ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon:
    """Steps of some matrices. A matrix may be a part of a parameter, such as the queries of a fused projection."""

    def __init__(self, matrices: list[tuple[Tensor, Part]], weight_decay: float) -> None:
        """`matrices` are parameters [R, C] and the part of each that is a matrix of its own."""
        self.weight_decay = weight_decay
        groups: dict[tuple[int, ...], list[tuple[Tensor, Part]]] = {}
        for parameter, part in matrices:
            groups.setdefault(tuple(parameter[part].shape), []).append((parameter, part))
        self._groups = list(groups.values())
        self.momenta = [torch.zeros((len(group), *shape), device=group[0][0].device) for shape, group in groups.items()]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One step along the gradients of the parameters."""
        for group, momentum in zip(self._groups, self.momenta, strict=True):
            gradients = torch.stack([p.grad[part] for p, part in group if p.grad is not None])
            momentum.lerp_(gradients, 1 - _MOMENTUM)
            update = orthogonal(gradients.lerp_(momentum, _MOMENTUM))
            matrices = [p[part] for p, part in group]
            size = _RMS * max(momentum.shape[1:]) ** 0.5
            torch._foreach_mul_(matrices, 1 - rate * self.weight_decay)
            torch._foreach_add_(matrices, list(update.to(momentum.dtype).unbind()), alpha=-rate * size)
