"""What `bench_kernels.py` measures on: shapes, inputs, float32 references, and the work that each operation needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.conv import causal_conv1d
from kernels.norm import gated_rms_norm, rms_norm
from kernels.ssd import ssd_chunked
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.mamba2_layers import Mixer
from scorer.training.presets import initialise

VOCABULARY = 50_280
SHAPE = Mamba2Config(VOCABULARY, hidden=768, layers=24, heads=24, head_dim=64, state=128)
XBC = SHAPE.inner + 2 * SHAPE.groups * SHAPE.state  # channels of the convolution
WIDTH = SHAPE.inner + XBC + SHAPE.heads  # of in_proj's output
ATTENTION = (12, 64)  # heads, their width
Work = list[tuple[float, float]]  # (FLOPs, bytes) of each part; one part's result is the next one's input


# Float32 references, on a few documents of a pack.


def chosen(lengths: Sequence[int]) -> Iterator[slice]:
    """Rows of the first, the longest and the last document."""
    for i in sorted({0, lengths.index(max(lengths)), len(lengths) - 1}):
        start = sum(lengths[:i])
        yield slice(start, start + lengths[i])


def plain_ssd(x: Tensor, dt: Tensor, b: Tensor, c: Tensor, mixer: Mixer) -> Tensor:
    """One document alone: [L, H, P] -> [L, H, P]."""
    x, dt, b, c = (m[None].float() for m in (x, dt, b, c))
    return ssd_chunked(x, dt, -torch.exp(mixer.A_log.float()), b, c, mixer.D, mixer.dt_bias)[0][0]


def plain_layer(zxbcdt: Tensor, mixer: Mixer) -> Tensor:
    """One document alone: [L, 2 E + 2 G N + H] -> [L, E]."""
    gate, xbc, dt = zxbcdt.float().split((SHAPE.inner, XBC, SHAPE.heads), dim=-1)
    xbc = causal_conv1d(xbc[None], mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias)[0][0]
    y = plain_ssd(*(views(torch.cat((gate, xbc, dt), dim=-1))), mixer)
    return gated_rms_norm(y.flatten(1), gate, mixer.norm.weight, SHAPE.eps, SHAPE.inner // SHAPE.groups)


def plain_model(model: Mamba2, ids: Tensor, targets: Tensor) -> Tensor:
    """One document alone: [L], [L] -> [L]."""
    stream = model.backbone.embeddings(ids).float()
    for layer in model.backbone.layers:
        x = F.linear(rms_norm(stream, layer.norm.weight, SHAPE.eps), layer.mixer.in_proj.weight.float())
        stream = stream + F.linear(plain_layer(x, layer.mixer), layer.mixer.out_proj.weight.float())
    return plain_nll(rms_norm(stream, model.backbone.norm_f.weight, SHAPE.eps), model.head, targets)


def plain_nll(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden.float(), weight.float()), targets, reduction="none")


# Inputs.


def views(zxbcdt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [T, H, P], dt [T, H], B and C [T, G, N] as slices of in_proj's output."""
    width = SHAPE.groups * SHAPE.state
    _, x, b, c, dt = zxbcdt.split((SHAPE.inner, SHAPE.inner, width, width, SHAPE.heads), dim=-1)
    by_group = (SHAPE.groups, SHAPE.state)
    return x.unflatten(-1, (SHAPE.heads, SHAPE.head_dim)), dt, b.unflatten(-1, by_group), c.unflatten(-1, by_group)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype, generator=torch.Generator("cuda").manual_seed(seed))


def model_of(layers: int) -> Mamba2:
    """The 130M shape with random weights, as a loaded one has them: matrices in bfloat16, the small ones in float32."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = Mamba2(replace(SHAPE, layers=layers))
    initialise(model)
    for name, p in model.named_parameters():
        if name.endswith(("norm.weight", "norm_f.weight")):
            p.data.uniform_(0.5, 1.5)  # not all one, or a kernel that leaves them out would pass
        p.data = p.data.to(torch.bfloat16 if p.dim() == 2 else torch.float32)
    return model.requires_grad_(False).eval()


# What an operation needs at least.


def ssd_work(tokens: int) -> tuple[float, float]:
    """Causal, in chunks of 64, the dt and the D in passing; x, dt, B and C read once and y written once."""
    heads, width, groups, state = SHAPE.heads, SHAPE.head_dim, SHAPE.groups, SHAPE.state
    flops = 64 * (groups * state + heads * width) + 4 * heads * width * state
    return float(tokens * flops), float(tokens * 2 * (2 * SHAPE.inner + 2 * groups * state + heads))


def layer_work(tokens: int) -> tuple[float, float]:
    """In one pass: in_proj's output read once, out_proj's input written once."""
    flops, _ = ssd_work(tokens)
    return flops + 2.0 * tokens * XBC * SHAPE.conv_kernel, 2.0 * tokens * (WIDTH + SHAPE.inner)


def head_work(tokens: int) -> tuple[float, float]:
    return 2.0 * tokens * SHAPE.hidden * VOCABULARY, 2.0 * (tokens + VOCABULARY) * SHAPE.hidden + 12.0 * tokens


def model_work(tokens: int) -> Work:
    """Three passes a layer with the norms folded in, bfloat16 between them; then the head."""
    before = 2.0 * tokens * SHAPE.hidden * WIDTH, 2.0 * tokens * (SHAPE.hidden + WIDTH)
    after = 2.0 * tokens * SHAPE.inner * SHAPE.hidden, 2.0 * tokens * (SHAPE.inner + 2 * SHAPE.hidden)
    return [before, layer_work(tokens), after] * SHAPE.layers + [head_work(tokens)]


def attention_work(lengths: Sequence[int]) -> tuple[float, float]:
    heads, width = ATTENTION
    return 2.0 * heads * width * sum(n * (n + 1) for n in lengths), 8.0 * sum(lengths) * heads * width
