"""Public kernels that ours are measured beside, each behind one function that returns a call without arguments.

`use(folder)` makes them importable from checkouts of their repositories, nothing built or installed:

    folder/mamba                    github.com/state-spaces/mamba
    folder/flash-linear-attention   github.com/fla-org/flash-linear-attention
    folder/ml-cross-entropy         github.com/apple/ml-cross-entropy
    folder/Liger-Kernel             github.com/linkedin/Liger-Kernel
    folder/einops                   the unpacked wheel, if einops is not installed

A peer is imported when it is asked for, so one that is not there raises ImportError then and the others work.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_layers import Mixer

Call = Callable[[], Tensor]

CHUNK = 256  # of mamba_ssm's scan: its default, and its fastest on an H100
HEAD_ROWS = 16384  # tokens whose logits the peer model holds at a time
COMPILED_ROWS = 4096

_ROOTS = ("einops", "mamba", "flash-linear-attention", "ml-cross-entropy", "Liger-Kernel/src")
# Packages whose own __init__ imports far more than the modules used here need (models, layers, other kernels).
_BARE = {
    "mamba_ssm": "mamba",
    "fla": "flash-linear-attention",
    "fla.modules": "flash-linear-attention",
    "fla.modules.conv": "flash-linear-attention",
    "fla.ops": "flash-linear-attention",
    "liger_kernel.ops": "Liger-Kernel/src",
}
_tuned: list[Any] = []


def use(folder: Path) -> None:
    """Lets the peers be imported from `folder` (see the module)."""
    for root in _ROOTS:
        if (folder / root).is_dir():
            sys.path.append(str(folder / root))
    for name, root in _BARE.items():
        path = folder / root / name.replace(".", "/")
        if path.is_dir():
            package = ModuleType(name)
            package.__path__ = [str(path)]
            package.__version__ = "0"  # fla asks its package for it
            sys.modules[name] = package
    _compile_candidates_together()


def _compile_candidates_together() -> None:
    """Makes Triton's autotuners compile their candidates on all cores before they time them.

    mamba's five scan kernels alone have 42 candidates, a minute of compiling one after the other. Which one is chosen,
    and what it then takes, stays the peers' own.
    """
    from triton.runtime._async_compile import AsyncCompileMode
    from triton.runtime.autotuner import Autotuner

    prune = Autotuner.prune_configs  # called once for each tuning, before the first candidate is timed
    pool = ThreadPoolExecutor(os.cpu_count())

    def prune_and_compile(self: Any, kwargs: dict[str, Any]) -> Any:
        _tuned.append(self)
        configs = prune(self, kwargs)
        given = {name: value for name, value in kwargs.items() if name != "warmup"}
        with AsyncCompileMode(pool, ignore_errors=True):
            for config in configs:
                self.fn.warmup(*self.nargs.values(), **given, **config.all_kwargs())
        return configs

    Autotuner.prune_configs = prune_and_compile


def tune_again() -> None:
    """Forgets the choices of the autotuners, whose keys say nothing of strides: other views, another choice."""
    for tuner in _tuned:
        tuner.cache.clear()
    _tuned.clear()


def _load(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True)
class Layout:
    """How the peers take a pack: equal documents as a batch, others as one row with an id for each token."""

    shape: tuple[int, int]  # [B, L]
    seq_idx: Tensor | None  # [1, T] int32
    cu_seqlens: Tensor | None  # [S+1] int64

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Layout:
        if len(set(lengths)) == 1:
            return cls((len(lengths), lengths[0]), None, None)
        sizes = torch.tensor(lengths, device=device)
        ids = torch.arange(len(lengths), device=device, dtype=torch.int32).repeat_interleave(sizes)
        return cls((1, sum(lengths)), ids[None], F.pad(sizes.cumsum(0), (1, 0)))

    def batch(self, tokens: Tensor) -> Tensor:
        """[T, ...] -> [B, L, ...], a view."""
        return tokens.unflatten(0, self.shape)


def mamba_ssd(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, lengths: Sequence[int]
) -> Call:
    """mamba_ssm's chunked scan: five Triton kernels. x [T, H, P], dt [T, H], b and c [T, G, N] -> y [T, H, P]."""
    scan = _load("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    to = Layout.of(lengths, x.device)
    given = [to.batch(x), to.batch(dt), a, to.batch(b), to.batch(c)]
    return lambda: scan(*given, CHUNK, D=d, dt_bias=dt_bias, seq_idx=to.seq_idx, dt_softplus=True).flatten(0, 1)


def mamba_ssd_gradients(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, dt_bias: Tensor, grad: Tensor,
    lengths: Sequence[int],
) -> Call:  # fmt: skip
    """mamba_ssm's scan and its gradients of all inputs, given that of y: returns the one of x, [T, H, P]."""
    scan = _load("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    to = Layout.of(lengths, x.device)
    given = [m.detach().requires_grad_() for m in (to.batch(x), to.batch(dt), a, to.batch(b), to.batch(c), d, dt_bias)]

    @torch.enable_grad()
    def run() -> Tensor:
        y = scan(*given[:5], CHUNK, D=given[5], dt_bias=given[6], seq_idx=to.seq_idx, dt_softplus=True)
        return torch.autograd.grad(y, given, to.batch(grad))[0].flatten(0, 1)

    return run


def mamba_hidden(model: Mamba2, ids: Tensor) -> Tensor:
    """A training's forward pass on mamba_ssm's scan and norms and fla's convolution: ids [B, L] -> [B, L, hidden]."""
    norm = _load("mamba_ssm.ops.triton.layer_norm", "rms_norm_fn")
    conv = _load("fla.modules.conv.triton.ops", "CausalConv1dFunction")

    def differentiable(xbc: Tensor, taps: Tensor, bias: Tensor, _: None, activation: str, cu_seqlens: None) -> Any:
        return conv.apply(xbc, taps, bias, None, None, False, activation, cu_seqlens)

    to = Layout((ids.shape[0], ids.shape[1]), None, None)
    given = {"eps": model.config.eps, "prenorm": True, "residual_in_fp32": True}
    y, stream = model.backbone.embeddings(ids).bfloat16(), None
    for layer in model.backbone.layers:
        y, stream = norm(y, layer.norm.weight, None, residual=stream, **given)
        mixed = _mamba_mixing(layer.mixer, to, differentiable)(F.linear(y, layer.mixer.in_proj.weight))
        y = F.linear(mixed, layer.mixer.out_proj.weight)
    return norm(y, model.backbone.norm_f.weight, None, residual=stream, eps=model.config.eps, residual_in_fp32=True)


def _mamba_mixing(mixer: Mixer, to: Layout, conv: Any = None) -> Callable[[Tensor], Tensor]:
    """What lies between a mixer's two projections: [B, L, 2 E + 2 G N + H] -> [B, L, E]."""
    scan = _load("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    gated_norm = _load("mamba_ssm.ops.triton.layernorm_gated", "rmsnorm_fn")
    conv = conv or _load("fla.modules.conv.triton.ops", "causal_conv1d_fwd")
    c = mixer.config
    width = c.groups * c.state
    a = -torch.exp(mixer.A_log.float())
    taps = mixer.conv1d.weight.squeeze(1)

    def run(zxbcdt: Tensor) -> Tensor:
        gate, xbc, dt = zxbcdt.split((c.inner, c.inner + 2 * width, c.heads), dim=-1)
        xbc, _ = conv(xbc, taps, mixer.conv1d.bias, None, activation="silu", cu_seqlens=to.cu_seqlens)
        x, b, cc = xbc.split((c.inner, width, width), dim=-1)
        y = scan(
            x.unflatten(-1, (c.heads, c.head_dim)),
            dt,
            a,
            b.unflatten(-1, (c.groups, c.state)),
            cc.unflatten(-1, (c.groups, c.state)),
            CHUNK,
            D=mixer.D,
            dt_bias=mixer.dt_bias,
            seq_idx=to.seq_idx,
            dt_softplus=True,
        )
        group = c.inner // c.groups
        return gated_norm(y.flatten(2), mixer.norm.weight, None, gate, c.eps, group, norm_before_gate=False)

    return run


def mamba_layer(zxbcdt: Tensor, mixer: Mixer, lengths: Sequence[int]) -> Call:
    """fla's convolution, mamba_ssm's scan and gated norm: [T, 2 E + 2 G N + H] -> [T, E]."""
    to = Layout.of(lengths, zxbcdt.device)
    mixing, given = _mamba_mixing(mixer, to), to.batch(zxbcdt)
    return lambda: mixing(given).flatten(0, 1)


def mamba_model(model: Mamba2, ids: Tensor, targets: Tensor, lengths: Sequence[int]) -> Call:
    """The whole model on mamba_ssm's and fla's kernels, with logits and cross-entropy: ids [T] -> NLL [T] float32."""
    norm = _load("mamba_ssm.ops.triton.layer_norm", "rms_norm_fn")
    eps = model.config.eps
    to = Layout.of(lengths, ids.device)
    mixings = [_mamba_mixing(layer.mixer, to) for layer in model.backbone.layers]

    def run() -> Tensor:
        y, stream = model.backbone.embeddings(to.batch(ids)), None
        for layer, mixing in zip(model.backbone.layers, mixings, strict=True):
            given = {"residual": stream, "eps": eps, "prenorm": True, "residual_in_fp32": True}
            y, stream = norm(y, layer.norm.weight, None, **given)
            y = F.linear(mixing(F.linear(y, layer.mixer.in_proj.weight)), layer.mixer.out_proj.weight)
        y = norm(y, model.backbone.norm_f.weight, None, residual=stream, eps=eps, residual_in_fp32=True).flatten(0, 1)
        del stream
        return torch.cat(
            [
                F.cross_entropy(F.linear(rows, model.head).float(), wanted, reduction="none")
                for rows, wanted in zip(y.split(HEAD_ROWS), targets.split(HEAD_ROWS), strict=True)
            ]
        )

    return run


def cut_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Call:
    """Apple's head without logits in memory, in the fixed configuration that it ships: [N, D], [V, D] -> [N]."""
    loss = _load("cut_cross_entropy", "linear_cross_entropy")
    return lambda: loss(hidden, weight, targets, reduction="none")


def liger_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Call:
    """Liger's Triton head, a chunk of logits at a time, without gradients: [N, D], [V, D] -> [N] float32."""
    forward = _load("liger_kernel.ops.fused_linear_cross_entropy", "fused_linear_cross_entropy_forward")
    return lambda: forward(hidden, weight, targets, reduction="none")[0]


def compiled_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Call:
    """torch.compile of log-sum-exp less the target's logit, 4,096 rows at a time: [N, D], [V, D] -> [N] float32."""

    @torch.compile(dynamic=False)
    def some(rows: Tensor, head: Tensor, wanted: Tensor) -> Tensor:
        logits = F.linear(rows, head).float()
        return torch.logsumexp(logits, dim=-1) - logits.gather(1, wanted[:, None])[:, 0]

    cut = list(zip(hidden.split(COMPILED_ROWS), targets.split(COMPILED_ROWS), strict=True))
    return lambda: torch.cat([some(rows, weight, wanted) for rows, wanted in cut])


def sdpa(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], backend: str) -> Call:
    """torch's attention on a batch of equal documents, `backend` of SDPBackend: q, k and v [T, H, D] -> the same."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    to = Layout.of(lengths, q.device)
    if to.seq_idx is not None:
        raise ValueError("takes equal documents only")
    batch = [to.batch(m).transpose(1, 2) for m in (q, k, v)]

    def run() -> Tensor:
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return F.scaled_dot_product_attention(*batch, is_causal=True).transpose(1, 2).flatten(0, 1)

    return run


def varlen(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int]) -> Call:
    """torch's variable-length FlashAttention on the pack: q, k and v [T, H, D] -> the same."""
    attend = _load("torch.nn.attention.varlen", "varlen_attn")
    starts = F.pad(torch.tensor(lengths, device=q.device).cumsum(0), (1, 0)).int()
    longest = max(lengths)
    return lambda: attend(q, k, v, starts, starts, longest, longest, window_size=(-1, 0))
