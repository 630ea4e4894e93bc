"""The other layers of Mamba-2 hybrids: causal attention and gated MLPs.

Dao and Gu, https://arxiv.org/abs/2405.21060, section 9.2. Parameters have state-spaces' names. Attention is over packs,
on a CPU too: a token sees the last `attention_context` positions of its document (`Mamba2Config`), itself included. So
keys and values of the positions before are carried from part to part of a document, as the SSD's state is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.attention import packed_attention
from kernels.conv import packed_conv1d
from kernels.gate import gated
from kernels.pack import Pack, to_device
from kernels.rotary import rotary_angles, rotate
from scorer.causal_lm.mamba2_config import AttentionConfig


@dataclass(frozen=True)
class Span:
    """The tokens that attention layers read at once, and what they know of the tokens before them.

    `carried` has for each document the number of earlier keys that are carried, at most context - 1. `keys` is the
    layout of these and the pack's own, None if every document begins here. `angles` are those of `rotary_angles`.
    """

    pack: Pack
    context: int
    keep_state: bool
    carried: list[int]
    keys: Pack | None
    angles: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, pack: Pack, read: Sequence[int], keep_state: bool, config: AttentionConfig, context: int) -> Span:
        """`read` positions of each document come before the pack; after it the layers' states are kept if asked for."""
        before = np.asarray(read, dtype=np.int64)
        carried = np.minimum(before, context - 1)
        keys = Pack.of(carried + pack.lengths, pack.device) if carried.any() else None
        angles = None
        if config.rotary:
            starts = np.cumsum(pack.lengths) - pack.lengths
            positions = np.arange(pack.tokens) + np.repeat(before - starts, pack.lengths)
            on_device = to_device(positions.astype(np.int32), pack.device)
            angles = rotary_angles(on_device, config.rotary, config.rotary_base)
        return cls(pack, context, keep_state, carried.tolist(), keys, angles)

    def with_carried(self, rows: Tensor, past: Tensor | None) -> Tensor:
        """rows [T, C] of the pack's tokens, those carried in `past` [S, context - 1, C] in front of each document's."""
        if self.keys is None or past is None:
            return rows
        parts = []
        for new, old, count in zip(rows.split(self.pack.lengths.tolist()), past, self.carried, strict=True):
            parts += [old[len(old) - count :], new]
        return torch.cat(parts)

    def to_carry(self, rows: Tensor) -> Tensor:
        """The last context - 1 rows of each document, after zeros where it has fewer: [S, context - 1, C]."""
        size = self.context - 1
        documents = rows.split((self.keys or self.pack).lengths.tolist())
        return torch.stack([F.pad(d[-size:], (0, 0, max(0, size - len(d)), 0)) for d in documents])


class Attention(nn.Module):
    """Causal self-attention with rotary positions, and optionally a short convolution of queries, keys and values.

    Forward only.
    """

    def __init__(self, hidden: int, config: AttentionConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.head_dim * (config.heads + 2 * config.kv_heads)
        self.in_proj = nn.Linear(hidden, channels, bias=config.qkv_bias)
        if config.conv_kernel:
            self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels)
        self.out_proj = nn.Linear(config.head_dim * config.heads, hidden, bias=config.out_bias)

    def forward(
        self, x: Tensor, span: Span, conv: Tensor | None, past: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x [T, hidden] -> the input of out_proj [T, H·D], and what is carried on if the span says so, else None.

        `conv` [S, K-1, C] are the convolution's last inputs before the pack (of no width without a convolution), `past`
        [S, context - 1, 2·K·D] the last keys and values; None if every document begins.
        """
        c = self.config
        qkv = self.in_proj(x)
        after = qkv.new_empty(len(span.carried), 0, 0) if span.keep_state else None
        if c.conv_kernel:
            taps, bias = self.conv1d.weight.squeeze(1), self.conv1d.bias
            qkv, after = packed_conv1d(qkv, taps, bias, span.pack, conv, span.keep_state, silu=False)
        heads = qkv.unflatten(1, (-1, c.head_dim))
        if span.angles is not None:
            rotate(heads[:, : c.heads + c.kv_heads], *span.angles, c.interleaved)
        rows = span.with_carried(heads[:, c.heads :].flatten(1), past)
        keys, values = rows.unflatten(1, (2, c.kv_heads, c.head_dim)).unbind(1)
        y = packed_attention(heads[:, : c.heads], keys, values, span.pack, c.scale, window=span.context, keys=span.keys)
        return y.flatten(1), after, span.to_carry(rows) if span.keep_state else None


class Mlp(nn.Module):
    """fc2(y · silu(gate)) with y and gate from fc1."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(hidden, 2 * inner, bias=False)
        self.fc2 = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> the same shape."""
        out: Tensor = self.fc2(gated(self.fc1(x)))
        return out
