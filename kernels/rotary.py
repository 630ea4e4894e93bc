"""Rotary positions of the heads of queries and keys (Su et al., https://arxiv.org/abs/2104.09864), in place."""

from __future__ import annotations

import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def rotary_angles(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [T, width / 2] float32 each, of the angles position / base^(2i / width) of channel pairs i.

    positions [T] integers, width even and not 0. The angles are computed in float64: in float32 they lose their digits
    at large positions.
    """
    pairs = torch.arange(width // 2, device=positions.device, dtype=torch.float64)
    angles = positions.double()[:, None] * base ** (-2 * pairs / width)
    return angles.cos().float(), angles.sin().float()


@torch.no_grad()
def rotate(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> None:
    """Rotates the first channels of each head in place: a pair (a, b) to (a cos - b sin, a sin + b cos).

    x [T, H, D] float32, float16 or bfloat16, channels contiguous, the other axes of any stride; cos and sin [T, W/2]
    float32 as of `rotary_angles`. The channels of a pair are neighbours if `interleaved`, else W/2 apart. Products and
    sums are float32. Forward only. Raises ValueError for unsupported arguments.
    """
    _check(x, cos, sin)
    if x.is_cuda:
        from kernels.rotary_triton import rotate_rows

        rotate_rows(x, cos, sin, interleaved)
    else:
        rotate_reference(x, cos, sin, interleaved)


@torch.no_grad()
def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> None:
    """The specification: `rotate` in torch, in float32, or float64 if x is."""
    half = cos.shape[1]
    a, b = (x[..., : 2 * half : 2], x[..., 1 : 2 * half : 2]) if interleaved else x[..., : 2 * half].split(half, dim=2)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    wide_a, wide_b = a.to(wide), b.to(wide)
    cos, sin = cos[:, None], sin[:, None]
    turned = wide_a * cos - wide_b * sin, wide_a * sin + wide_b * cos
    a.copy_(turned[0])
    b.copy_(turned[1])


def _check(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    if x.dim() != 3 or cos.dim() != 2 or cos.shape != sin.shape or len(cos) != len(x):
        raise ValueError(f"x must be [T, H, D], cos and sin [T, W/2]; got {[*x.shape]}, {[*cos.shape]}, {[*sin.shape]}")
    if 2 * cos.shape[1] > x.shape[2]:
        raise ValueError(f"{2 * cos.shape[1]} channels cannot be rotated in heads of {x.shape[2]}")
    if x.dtype not in _DTYPES or cos.dtype != torch.float32 or sin.dtype != torch.float32:
        raise ValueError(f"x must be float32, float16 or bfloat16, cos and sin float32; got {x.dtype}, {cos.dtype}")
    if not x.device == cos.device == sin.device:
        raise ValueError(f"x, cos and sin lie on {x.device}, {cos.device}, {sin.device}: use one")
    if x.shape[2] > 1 and x.stride(2) != 1:
        raise ValueError("the channels of x must be contiguous")
