"""The forward pass of a Mamba-2 model over a pack of documents with gradients, by the kernels for a GPU.

The residual stream is float32; products have the dtype of autocast, if that is on. For its backward pass a layer keeps
its stream and in_proj's output: norms, convolution and SSD are made again, so that neither their results nor any state
stay in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels import ssd_backward
from kernels.conv import packed_conv1d, packed_conv1d_backward
from kernels.linear import linear
from kernels.norm import add_rms_norm, add_rms_norm_backward, gated_rms_norm, gated_rms_norm_backward
from kernels.pack import Pack
from kernels.ssd import packed_ssd
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.mamba2_layers import Backbone
from scorer.causal_lm.mamba2_packed import takes_packs


def trains_packs(config: Mamba2Config) -> bool:
    """Whether the kernels have gradients for a model of this shape."""
    sizes = config.head_dim == ssd_backward.WIDTH and config.state <= ssd_backward.WIDEST_STATE
    return takes_packs(config) and sizes and not config.hybrid and not config.proj_bias


def training_hidden(backbone: Backbone, ids: Tensor, pack: Pack, positions: Tensor | None = None) -> Tensor:
    """ids [T] int64 of the documents of `pack`, on a GPU -> hidden states [T, hidden] before the head, differentiable.

    Their dtype is that of the products. Where documents of the pack are rows of shorter ones, positions [T] has those
    of the tokens in their own. Then batches of rows differ in what tensors hold alone, and can share a CUDA graph.
    """
    config = backbone.config
    autocast = torch.is_autocast_enabled("cuda")
    dtype = torch.get_autocast_dtype("cuda") if autocast else backbone.embeddings.weight.dtype
    stream = F.embedding(ids, backbone.embeddings.weight).float()
    added = None
    norm_linear: Any = _NormLinear.apply
    mix: Any = _Mix.apply
    layers: Any = backbone.layers
    for layer in layers:
        mixer = layer.mixer
        projected, stream = norm_linear(
            added, stream, layer.norm.weight, mixer.in_proj.weight.to(dtype), config.eps, dtype
        )
        added = mix(
            projected, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, -torch.exp(mixer.A_log.float()), mixer.D,
            mixer.dt_bias, mixer.norm.weight, mixer.out_proj.weight.to(dtype), positions, pack, config,
        )  # fmt: skip
    hidden: Tensor = norm_linear(added, stream, backbone.norm_f.weight, None, config.eps, dtype)[0]
    return hidden


class _NormLinear(torch.autograd.Function):
    """Adds a layer's output to the stream, and projects the norm of the sum. Keeps the sum."""

    @staticmethod
    def forward(
        ctx: Any, added: Tensor | None, stream: Tensor, norm: Tensor, weight: Tensor | None, eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """added [T, D] or None, stream [T, D], norm [D], weight [N, D] or None -> norm @ weight.T, or norm; the sum."""
        ctx.eps, ctx.first = eps, added is None
        ctx.set_materialize_grads(False)
        x, residual = (stream, None) if added is None else (added, stream)
        normed, total = add_rms_norm(x, residual, norm, eps)
        normed = normed.to(dtype)
        ctx.save_for_backward(total, norm, weight)
        return normed if weight is None else linear(normed, weight), total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_total: Tensor | None) -> tuple[Tensor | None, ...]:
        total, norm, weight = ctx.saved_tensors
        grad_normed = grad.contiguous() if weight is None else grad @ weight
        found = add_rms_norm_backward(grad_normed, grad_total, total, norm, ctx.eps)
        grad_weight = None if weight is None else grad.T @ found.normed
        return None if ctx.first else found.x, found.residual, found.weight, grad_weight, None, None


class _Mix(torch.autograd.Function):
    """A mixer from in_proj's output to out_proj's. Keeps in_proj's output."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, taps: Tensor, bias: Tensor | None, a: Tensor, d: Tensor, dt_bias: Tensor,
        norm: Tensor, out: Tensor, positions: Tensor | None, pack: Pack, config: Mamba2Config,
    ) -> Tensor:  # fmt: skip
        """projected [T, 2 E + 2 G N + H], the convolution's taps and bias, the SSD's a, d, dt_bias -> [T, D]."""
        ctx.pack, ctx.config = pack, config
        ctx.save_for_backward(projected, taps, bias, a, d, dt_bias, norm, out, positions)
        gate, xbc, dt = _cut(projected, config)
        x, b, c = _filtered(xbc, taps, bias, pack, positions, config)
        y, _, _ = packed_ssd(x, dt, a, b, c, pack, d, dt_bias, config.dt_limit, positions=positions)
        normed = gated_rms_norm(y.flatten(1), gate, norm, config.eps, config.inner // config.groups)
        return F.linear(normed, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        projected, taps, bias, a, d, dt_bias, norm, out, positions = ctx.saved_tensors
        pack, config = ctx.pack, ctx.config
        gate, xbc, dt = _cut(projected, config)
        grad_projected = torch.empty(projected.shape, dtype=projected.dtype, device=projected.device)
        grad_gate, grad_xbc, grad_dt = _cut(grad_projected, config)

        x, b, c = _filtered(xbc, taps, bias, pack, positions, config)
        given = x, dt, a, b, c, pack, d, dt_bias, config.dt_limit
        y, kept = ssd_backward.packed_ssd_kept(*given, positions=positions)
        group_size = config.inner // config.groups
        gated = gated_rms_norm_backward(grad @ out, y.flatten(1), gate, norm, config.eps, group_size, grad_gate)
        grad_out = grad.T @ gated.normed
        grad_y, grad_norm = gated.x.view(x.shape), gated.weight
        del y, gated
        ssd = ssd_backward.packed_ssd_backward(grad_y, *given, positions=positions, kept=kept, grad_dt=grad_dt)
        del grad_y, x, b, c, given, kept
        conv = packed_conv1d_backward(ssd.rows, xbc, taps, bias, pack, positions, grad_xbc)
        return grad_projected, *conv[1:], ssd.a, ssd.d, ssd.dt_bias, grad_norm, grad_out, None, None, None


def _cut(rows: Tensor, c: Mamba2Config) -> tuple[Tensor, Tensor, Tensor]:
    """The gate, the convolution's input and dt in rows of in_proj's output."""
    gate, xbc, dt = rows.split((c.inner, c.inner + 2 * c.groups * c.state, c.heads), dim=1)
    return gate, xbc, dt


def _filtered(
    xbc: Tensor, taps: Tensor, bias: Tensor | None, pack: Pack, positions: Tensor | None, c: Mamba2Config
) -> tuple[Tensor, Tensor, Tensor]:
    """The convolution's output as x [T, H, P], B and C [T, G, N]."""
    rows, _ = packed_conv1d(xbc, taps, bias, pack, positions=positions)
    width = c.groups * c.state
    x, b, cc = rows.split((c.inner, width, width), dim=1)
    by_group = (c.groups, c.state)
    return x.unflatten(1, (c.heads, c.head_dim)), b.unflatten(1, by_group), cc.unflatten(1, by_group)
