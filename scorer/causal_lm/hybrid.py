"""The other layers of Mamba-2 hybrids: causal attention and gated MLPs.

Dao and Gu, https://arxiv.org/abs/2405.21060, section 9.2. Parameters have state-spaces' names. Attention reads a whole
window at a time and keeps no state.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scorer.causal_lm.mamba2_config import AttentionConfig


class Attention(nn.Module):
    """Causal self-attention with rotary positions, and optionally a short convolution of queries, keys and values."""

    def __init__(self, hidden: int, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.head_dim * (config.heads + 2 * config.kv_heads)
        self.in_proj = nn.Linear(hidden, channels, bias=config.qkv_bias)
        if config.conv_kernel:
            self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels)
        self.out_proj = nn.Linear(config.head_dim * config.heads, hidden, bias=config.out_bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, T, hidden] -> the same shape; each row is a document from its start."""
        c = self.config
        qkv = self.in_proj(x)
        if c.conv_kernel:
            past = F.pad(qkv.mT, (c.conv_kernel - 1, 0))
            taps, bias = (p.to(past.dtype) for p in (self.conv1d.weight, cast(Tensor, self.conv1d.bias)))
            qkv = F.conv1d(past, taps, bias, groups=past.shape[1]).mT
        q, k, v = (
            m.unflatten(-1, (-1, c.head_dim)).transpose(1, 2)  # [B, H, T, D]
            for m in qkv.split([c.head_dim * heads for heads in (c.heads, c.kv_heads, c.kv_heads)], dim=-1)
        )
        if c.rotary:
            q, k = (rotate(m, c.rotary, c.rotary_base, c.interleaved) for m in (q, k))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=c.scale, enable_gqa=c.heads != c.kv_heads)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """fc2(y · silu(gate)) with y and gate from fc1."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, 2 * inner, bias=False)
        self.fc2 = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> the same shape."""
        y, gate = self.fc1(x).chunk(2, dim=-1)
        out: Tensor = self.fc2(y * F.silu(gate))
        return out


def rotate(x: Tensor, width: int, base: float, interleaved: bool) -> Tensor:
    """Rotary embedding of the first `width` channels of x [..., T, D] (Su et al., https://arxiv.org/abs/2104.09864).

    At position t, channel pair i is rotated by the angle t / base^(2i / width), computed in float32. The channels of a
    pair are neighbours if `interleaved`, else width/2 apart.
    """
    half = torch.arange(width // 2, device=x.device, dtype=torch.float32)
    angle = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * base ** (-2 * half / width)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    turned, rest = x[..., :width], x[..., width:]
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, dim=-1)
    pairs = a * cos - b * sin, a * sin + b * cos
    turned = torch.stack(pairs, dim=-1).flatten(-2) if interleaved else torch.cat(pairs, dim=-1)
    return torch.cat((turned, rest), dim=-1)
