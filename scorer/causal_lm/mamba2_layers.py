"""The layers of a Mamba-2 model or of one of its hybrids: mixer, norms, attention and MLP behind one residual stream.

Dao and Gu, https://arxiv.org/abs/2405.21060. Parameters have the names of transformers' `Mamba2ForCausalLM`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels.conv import causal_conv1d
from kernels.norm import gated_rms_norm, rms_norm
from kernels.pack import Pack
from kernels.ssd import ssd_chunked
from scorer.causal_lm.hybrid import Attention, Mlp, Span
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.recurrent_state import State


class Scale(nn.Module):
    """The weight of an RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Mixer(nn.Module):
    """The Mamba-2 mixer: input projection, convolution, SSD, gated norm, output projection."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        channels = config.inner + 2 * config.groups * config.state
        self.in_proj = nn.Linear(config.hidden, config.inner + channels + config.heads, bias=config.proj_bias)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels, bias=config.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(config.heads))
        self.A_log = nn.Parameter(torch.empty(config.heads))
        self.D = nn.Parameter(torch.empty(config.heads))
        self.norm = Scale(config.inner)
        self.out_proj = nn.Linear(config.inner, config.hidden, bias=config.proj_bias)

    def forward(
        self, x: Tensor, conv: Tensor | None, ssd: Tensor | None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, hidden] -> the same shape, and the states of convolution and SSD after it."""
        c = self.config
        width = c.groups * c.state
        gate, xbc, dt = self.in_proj(x).split((c.inner, c.inner + 2 * width, c.heads), dim=-1)
        xbc, conv = causal_conv1d(xbc, self.conv1d.weight.squeeze(1), self.conv1d.bias, conv, positions)
        values, b, cc = xbc.split((c.inner, width, width), dim=-1)
        y, ssd = ssd_chunked(
            values.unflatten(-1, (c.heads, c.head_dim)),
            dt,
            -torch.exp(self.A_log.float()),
            b.unflatten(-1, (c.groups, c.state)),
            cc.unflatten(-1, (c.groups, c.state)),
            self.D,
            self.dt_bias,
            c.dt_limit,
            ssd,
            positions,
        )
        y = gated_rms_norm(y.flatten(2), gate, self.norm.weight, c.eps, c.inner // c.groups)
        return self.out_proj(y), conv, ssd


class Layer(nn.Module):
    """Norm and mixer, added to a float32 residual stream. In a hybrid the mixer may be attention, before an MLP."""

    def __init__(self, config: Mamba2Config, attention: bool) -> None:
        super().__init__()
        self.config = config
        self.norm = Scale(config.hidden)
        self.mixer: Mixer | Attention
        if attention and config.attention is not None:
            self.mixer = Attention(config.hidden, config.attention)
        else:
            self.mixer = Mixer(config)
        if config.mlp:
            self.norm2 = Scale(config.hidden)
            self.mlp = Mlp(config.hidden, config.mlp)

    def forward(
        self,
        stream: Tensor,
        conv: Tensor | None,
        state: Tensor | None,
        positions: Tensor | None = None,
        span: Span | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """stream [B, T, hidden] float32 -> the same shape, and the two states after it.

        `span` is that of the rows, for attention, which gives states only if it says so.
        """
        eps, dtype = self.config.eps, self.mixer.in_proj.weight.dtype
        x = rms_norm(stream, self.norm.weight, eps).to(dtype)
        if isinstance(self.mixer, Mixer):
            x, conv, state = self.mixer(x, conv, state, positions)
        else:
            y, conv, state = self.mixer(x.flatten(0, 1), span, conv, state)
            x = self.mixer.out_proj(y).view(x.shape)
        stream = stream + x
        if self.config.mlp:
            stream = stream + self.mlp(rms_norm(stream, self.norm2.weight, eps).to(dtype))
        return stream, conv, state


class Backbone(nn.Module):
    """Embedding, layers and last norm."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        # On the meta device the default weights mean nothing, and normal_ imports torch._dynamo, which takes seconds.
        weight = torch.empty(config.vocab_size, config.hidden)
        self.embeddings = nn.Embedding(
            config.vocab_size, config.hidden, _weight=weight if weight.is_meta else nn.init.normal_(weight)
        )
        self.layers = nn.ModuleList(Layer(config, i in config.attention_layers) for i in range(config.layers))
        self.norm_f = Scale(config.hidden)

    def span(self, pack: Pack, state: State | None, keep_state: bool) -> Span | None:
        """What attention layers know of the documents of `pack`, which go on from `state`; None without attention."""
        c = self.config
        if c.attention is None:
            return None
        read = [0] * len(pack.lengths) if state is None else state.read
        return Span.of(pack, read, keep_state, c.attention, c.attention_context)
