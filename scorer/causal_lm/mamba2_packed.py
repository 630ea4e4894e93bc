"""The forward pass of a Mamba-2 model over a pack of documents, with the kernels for a GPU.

When the model is loaded, a norm's weight is folded into the matrix after it. The rest of the norm is one factor for
each row. The kernel before the norm gives the row's sum of squares, and the product after it applies the factor to its
result, on Hopper, or else the kernels that read that: no norm reads or writes rows itself. On Hopper this product makes
SiLU of the gate too. The residual stream has the products' dtype.

With 8-bit products the rows before one are rounded to e4m3, and the factor of the norm is applied then.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.conv import WIDEST, packed_conv1d
from kernels.e4m3 import Fp8Rows
from kernels.fp8 import add_linear8, linear8, quantize_normed
from kernels.linear import add_linear, linear, scales
from kernels.norm import add_rms_norm, gated_rms_norm, row_scale, row_squares
from kernels.pack import Pack
from kernels.ssd import packed_ssd
from scorer.causal_lm.hybrid import Attention, Span
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.mamba2_layers import Backbone, Layer
from scorer.causal_lm.recurrent_state import State


def takes_packs(config: Mamba2Config) -> bool:
    """Whether the kernels support a model of this shape: their sizes of heads, states and filters of the SSD."""
    sizes = config.head_dim in (64, 128) and config.state in (16, 32, 64, 128, 256)
    return sizes and 2 <= config.conv_kernel <= WIDEST


@torch.no_grad()
def fold(tensors: dict[str, Tensor], layers: int) -> None:
    """Folds the weight of each norm into the matrix after it; the model computes the same function.

    Replaces entries of `tensors`, a model's by name. The products are float32, so that they are rounded only once.
    """
    for i in range(layers):
        layer = f"backbone.layers.{i}"
        for scale, matrix in (("norm", "mixer.in_proj"), ("mixer.norm", "mixer.out_proj")):
            if f"{layer}.{scale}.weight" not in tensors:  # attention has no norm before out_proj
                continue
            weight, factor = tensors[f"{layer}.{matrix}.weight"], tensors[f"{layer}.{scale}.weight"]
            tensors[f"{layer}.{matrix}.weight"] = weight.float() * factor.float()
            tensors[f"{layer}.{scale}.weight"] = torch.ones_like(factor)


def packed_hidden(
    backbone: Backbone, ids: Tensor, pack: Pack, state: State | None = None, keep_state: bool = False
) -> tuple[Tensor, State | None]:
    """ids [T] int64 of the documents of `pack` -> hidden states [T, hidden] before the head, and the states after them.

    The weights must be folded. `state` [S, ...] holds the documents' states before (see `State`). It is emptied layer
    by layer, because both states at once would take twice the memory.
    """
    stream = F.embedding(ids, backbone.embeddings.weight)
    squares = row_squares(stream)
    span = backbone.span(pack, state, keep_state)
    after = State.after(state, pack.lengths.tolist())
    layers: Any = backbone.layers
    for layer in layers:
        conv, ssd = (None, None) if state is None else (state.conv.pop(0), state.mixer.pop(0))
        stream, squares, conv, ssd = _layer(layer, stream, squares, pack, span, conv, ssd, keep_state)
        if keep_state and conv is not None and ssd is not None:
            after.conv.append(conv)
            after.mixer.append(ssd)
    hidden, _ = add_rms_norm(stream, None, backbone.norm_f.weight, backbone.config.eps)
    return hidden, after if keep_state else None


def _layer(
    layer: Layer,
    stream: Tensor,
    squares: Tensor,
    pack: Pack,
    span: Span | None,
    conv: Tensor | None,
    ssd: Tensor | None,
    keep_state: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """stream [T, hidden] and its rows' sums of squares -> both after the layer, and the layer's states."""
    mixer: Any = layer.mixer
    c = layer.config
    scale = row_scale(squares, c.hidden, c.eps)
    if isinstance(mixer, Attention):
        y, conv, ssd = mixer((stream * scale[:, None]).to(stream.dtype), span, conv, ssd)
        y_squares = None
    else:
        y, y_squares, conv, ssd = _mix(mixer, stream, scale, pack, conv, ssd, keep_state)
    if y_squares is None:
        stream = stream + mixer.out_proj(y)
        squares = row_squares(stream)
    else:
        weight, scale = mixer.out_proj.weight, row_scale(y_squares, c.inner, c.eps)
        if isinstance(weight, Fp8Rows):
            stream, squares = add_linear8(quantize_normed(y, scale), weight, stream)
        else:
            stream, squares = add_linear(y, weight, stream, scale)
    if c.mlp:
        stream = stream + layer.mlp(add_rms_norm(stream, None, layer.norm2.weight, c.eps)[0])
        squares = row_squares(stream)
    return stream, squares, conv, ssd


def _mix(
    mixer: Any,
    stream: Tensor,
    scale: Tensor,
    pack: Pack,
    conv: Tensor | None,
    ssd: Tensor | None,
    keep_state: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The input of out_proj [T, inner]; its rows' sums of squares, None if it is normed already; the layer's states.

    A separate function, so that in_proj's output, the widest tensor, is freed before the layer's output is allocated.
    """
    c: Mamba2Config = mixer.config
    width = c.groups * c.state
    plain = c.proj_bias or c.groups > 1  # a bias must not be scaled, and each group has its own factor
    weight, scale_after, silu = mixer.in_proj.weight, None, True
    if plain:
        projected = mixer.in_proj((stream * scale[:, None]).to(stream.dtype))
    elif isinstance(weight, Fp8Rows):
        projected = linear8(quantize_normed(stream, scale), weight)
    elif scales(stream, weight):
        projected, silu = linear(stream, weight, scale, gate=c.inner), False
    else:
        projected, scale_after = linear(stream, weight), scale
    gate, xbc, dt = projected.split((c.inner, c.inner + 2 * width, c.heads), dim=1)
    xbc, conv = packed_conv1d(
        xbc, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, pack, conv, keep_state, scale=scale_after
    )
    x, b, cc = xbc.split((c.inner, width, width), dim=1)
    gate = gate.unflatten(1, (c.heads, c.head_dim))
    y, squares, ssd = packed_ssd(
        x.unflatten(1, (c.heads, c.head_dim)),
        dt,
        -torch.exp(mixer.A_log.float()),
        b.unflatten(1, (c.groups, c.state)),
        cc.unflatten(1, (c.groups, c.state)),
        pack,
        mixer.D,
        mixer.dt_bias,
        c.dt_limit,
        gate=None if plain else gate,
        silu=silu,
        scale=scale_after,
        initial_state=ssd,
        keep_state=keep_state,
    )
    y = y.flatten(1)
    if plain or squares is None:
        y, squares = gated_rms_norm(y, gate.flatten(1), mixer.norm.weight, c.eps, c.inner // c.groups), None
    return y, squares, conv, ssd
