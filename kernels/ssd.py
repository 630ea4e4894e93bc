"""Structured state space duality (SSD), the sequence mixing of Mamba-2, in its two forms.

Dao and Gu, "Transformers are SSMs", https://arxiv.org/abs/2405.21060. For each head, with a state S of [P, N]:

    dt'[t] = clamp(softplus(dt[t] + dt_bias), dt_limit)
    S[t]   = exp(dt'[t] · A) · S[t-1] + dt'[t] · x[t] ⊗ B[t]
    y[t]   = S[t] · C[t] + D · x[t]

`ssd_recurrent` is these lines, the specification. `ssd_chunked` is the block decomposition of the paper's section 6:
quadratic inside a chunk, linear from chunk to chunk, and so made of matrix products.

Axes: B batch, L time (at least 1), H heads, P head width, G groups, N state; H is a multiple of G and a group's B and C
serve its H/G neighbouring heads. Both functions take

    x [B, L, H, P], dt [B, L, H] (before bias and softplus), a [H] (negative), b and c [B, L, G, N],
    d [H] or None, dt_bias [H] or None, dt_limit (low, high), initial_state [B, H, P, N] or None (zeros),
    positions [B, L] or None: of each token in its document; where it is 0, the state before is forgotten,

and return y [B, L, H, P] in x's dtype and the final state [B, H, P, N] in float32, or float64 if x is.

`packed_ssd` is the same over the documents of a pack, by kernels on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.pack import LOG2_E, Pack
from kernels.ssd_tables import CUT, FORGOTTEN

if TYPE_CHECKING:  # needs Triton, which a machine without a GPU may lack
    from kernels.ssd_triton import Optional, Outputs, Prepared

CHUNK = 64  # positions a chunk
NO_LIMIT = (0.0, float("inf"))
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _time_steps(dt: Tensor, dt_bias: Tensor | None, dt_limit: tuple[float, float]) -> Tensor:
    """dt' as the module's docstring defines it, in float32 at least."""
    dt = dt if dt.dtype == torch.float64 else dt.float()
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    dt = F.softplus(dt)
    return dt if dt_limit == NO_LIMIT else dt.clamp(*dt_limit)


def ssd_recurrent(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMIT,
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The SSD as its recurrence, one position after another: the specification. See the module for shapes."""
    batch, length, heads, width = x.shape
    groups, states = b.shape[2:]
    dt = _time_steps(dt, dt_bias, dt_limit)
    wide = dt.dtype
    xs = x.to(wide)
    bs, cs = (m.to(wide).repeat_interleave(heads // groups, dim=2) for m in (b, c))  # [B, L, H, N]
    decay = torch.exp(dt * a.to(wide))
    if positions is not None:
        decay = decay.masked_fill((positions == 0)[..., None], 0.0)
    state = xs.new_zeros(batch, heads, width, states) if initial_state is None else initial_state.to(wide)
    outputs = []
    for t in range(length):
        update = (dt[:, t, :, None] * xs[:, t])[..., None] * bs[:, t, :, None, :]
        state = decay[:, t, :, None, None] * state + update
        outputs.append((state * cs[:, t, :, None, :]).sum(-1))
    y = torch.stack(outputs, dim=1)
    if d is not None:
        y = y + d.to(wide)[:, None] * xs
    return y.to(x.dtype), state


def ssd_chunked(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMIT,
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """The SSD as its dual: masked attention inside chunks, the recurrence between them. See the module for shapes.

    Matrix products run in x's dtype; time steps, decays and states stay in float32 at least.
    """
    batch, length, heads, width = x.shape
    groups, states = b.shape[2:]
    shared = heads // groups
    dt = _time_steps(dt, dt_bias, dt_limit)
    wide, narrow = dt.dtype, x.dtype
    step = min(chunk, length)
    short = -length % step  # a padded position has dt' = 0: it neither decays the state nor adds to it
    chunks = (length + short) // step

    def cut(m: Tensor) -> Tensor:
        """[B, L, ...] -> [B, K, Q, ...]: K chunks of Q positions."""
        return torch.unflatten(F.pad(m, (0, 0) * (m.dim() - 2) + (0, short)), 1, (chunks, step))

    xs, dts = cut(x), cut(dt)
    bs, cs = (cut(m.to(narrow)).transpose(2, 3) for m in (b, c))  # [B, K, G, Q, N]
    steps = dts * a.to(wide)
    if positions is not None:
        steps = steps.masked_fill((cut(positions[..., None] + 1) == 1), FORGOTTEN / LOG2_E)  # 0 past the end
    log_decay = torch.cumsum(steps, dim=2)  # [B, K, Q, H], from the chunk's start
    xdt = xs * dts[..., None]  # [B, K, Q, H, P]

    # Inside a chunk: attention without softmax, (C Bᵀ) ∘ decay from j to i.
    by_head = log_decay.transpose(2, 3)
    past = torch.ones(step, step, dtype=torch.bool, device=x.device).tril()
    decay = (by_head[..., :, None] - by_head[..., None, :]).masked_fill(~past, float("-inf")).exp()
    scores = cs @ bs.transpose(3, 4)  # [Q, N] @ [N, Q]
    mixing = (scores[:, :, :, None] * decay.unflatten(2, (groups, shared))).flatten(2, 3)
    y = (mixing.to(narrow) @ xdt.to(narrow).transpose(2, 3)).transpose(2, 3)  # [Q, Q] @ [Q, P]

    # The contribution of each chunk to the state at its end. The heads of a group share B: one product for all.
    to_end = torch.exp(log_decay[:, :, -1:] - log_decay)
    grouped = (xdt * to_end[..., None]).to(narrow).reshape(batch, chunks, step, groups, shared * width)
    added = (bs.transpose(3, 4) @ grouped.transpose(2, 3)).to(wide)  # [N, Q] @ [Q, R P]

    # The recurrence from chunk to chunk.
    kept = torch.exp(log_decay[:, :, -1]).repeat_interleave(width, dim=2).unflatten(2, (groups, 1, -1))
    if initial_state is None:
        state = xdt.new_zeros(batch, groups, states, shared * width)
    else:
        state = initial_state.to(wide).unflatten(1, (groups, shared)).permute(0, 1, 4, 2, 3).flatten(3)
    before = []
    for k in range(chunks):
        before.append(state)
        state = state * kept[:, k] + added[:, k]

    carried = (cs @ torch.stack(before, dim=1).to(narrow)).transpose(2, 3).reshape(xs.shape)  # [Q, N] @ [N, R P]
    y = torch.addcmul(y.to(wide), carried.to(wide), torch.exp(log_decay)[..., None])
    if d is not None:
        y = torch.addcmul(y.to(wide), xs.to(wide), d.to(wide)[:, None])
    final = state.unflatten(3, (shared, width)).permute(0, 1, 3, 4, 2).flatten(1, 2)
    return y.flatten(1, 2)[:, :length].to(narrow), final


@torch.no_grad()
def packed_ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    pack: Pack,
    d: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_limit: tuple[float, float] = NO_LIMIT,
    *,
    gate: Tensor | None = None,
    silu: bool = True,
    scale: Tensor | None = None,
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
    keep_state: bool = False,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The SSD over each document of a pack; optionally gated, as before a Mamba-2 mixer's norm.

    x [T, H, P] and gate [T, H, P], dt [T, H], b and c [T, G, N] for the T tokens of `pack`: float32, float16 or
    bfloat16, heads and later axes contiguous, rows of any stride, as in slices of a projection's output. a, d and
    dt_bias [H] float32. P 64 or 128; N 16 to 256, a power of two. scale [T] float32 multiplies dt and gate first, for a
    projection of rows that are not yet normed. initial_state [S, H, P, N] float32 for the S documents, or zeros.
    positions [T] integers, where documents of the pack are rows of shorter ones: of each token in its own, 0 where the
    state before is forgotten. Decays are then exact to 1e-5 only.

    Returns y [T, H, P] in x's dtype, with a gate times silu(gate), or times the gate itself if `silu` is False, for
    one that `kernels.linear.linear` has made so; with a gate also the sum of its squares over P, [H, T] float32;
    with `keep_state` the final states [S, H, P, N] float32. A document has the same bits wherever it lies in a pack.
    Products run in x's dtype, sums and states in float32. Forward only; `packed_ssd_backward` has the gradients.
    Raises ValueError for unsupported arguments.
    """
    check(x, dt, a, b, c, pack, d, dt_bias, gate, scale, initial_state, positions)
    if not x.is_cuda:
        return _packed_reference(
            x, dt, a, b, c, pack, d, dt_bias, dt_limit, gate=gate, silu=silu, scale=scale, initial_state=initial_state,
            positions=positions, keep_state=keep_state,
        )  # fmt: skip
    from kernels import ssd_triton

    tokens, heads, width = x.shape
    made = ssd_triton.prepare(dt, a, b, c, pack, dt_bias, dt_limit, scale, positions)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=x.device)

    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    outputs = ssd_triton.Outputs(
        y=y,
        squares=empty(heads, tokens) if gate is not None else None,
        final_state=empty(len(pack.lengths), heads, width, b.shape[2]) if keep_state else None,
    )
    scan(x, made, pack, ssd_triton.Optional(d, gate, silu, scale, initial_state), outputs)
    return y, outputs.squares, outputs.final_state


def scan(x: Tensor, made: Prepared, pack: Pack, given: Optional, outputs: Outputs) -> None:
    """Fills `outputs` by the kernels, with the states between the segments of long documents."""
    from kernels import ssd_hopper, ssd_triton

    by = ssd_hopper if ssd_hopper.supports(x, made.b, given.gate) else ssd_triton
    entries = None
    if pack.lengths.max() > CUT.segment:
        entries = by.shares(x, made, pack)
        ssd_triton.pass_states(entries, made, pack, given.initial_state)
    by.scan(x, made, entries, pack, given, outputs)


def _packed_reference(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    pack: Pack,
    d: Tensor | None,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float],
    *,
    gate: Tensor | None,
    silu: bool,
    scale: Tensor | None,
    initial_state: Tensor | None,
    positions: Tensor | None,
    keep_state: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The specification: `packed_ssd` document by document, in torch."""
    if scale is not None:
        dt = dt.float() * scale[:, None]
    ys, states = [], []
    start = 0
    for i, length in enumerate(pack.lengths.tolist()):
        rows = slice(start, start + length)
        before = None if initial_state is None else initial_state[i, None]
        y, state = ssd_chunked(
            x[None, rows], dt[None, rows], a, b[None, rows], c[None, rows], d, dt_bias, dt_limit, before,
            None if positions is None else positions[None, rows],
        )  # fmt: skip
        ys.append(y[0])
        states.append(state[0])
        start += length
    y = torch.cat(ys)
    squares = None
    if gate is not None:
        z = gate.float() if scale is None else gate.float() * scale[:, None, None]
        wide = y.float() * (F.silu(z) if silu else z)
        y, squares = wide.to(y.dtype), wide.square().sum(2).T.contiguous()
    return y, squares, torch.stack(states) if keep_state else None


def check(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, pack: Pack, d: Tensor | None, dt_bias: Tensor | None,
    gate: Tensor | None, scale: Tensor | None, initial_state: Tensor | None, positions: Tensor | None,
) -> None:  # fmt: skip
    """Raises ValueError for arguments that `packed_ssd` does not take."""
    if x.dim() != 3 or b.dim() != 3:
        raise ValueError(f"x must be [T, H, P] and b [T, G, N]; got {[*x.shape]} and {[*b.shape]}")
    (tokens, heads, width), (groups, states) = x.shape, b.shape[1:]
    wanted = {
        "dt": (dt, (tokens, heads)),
        "a": (a, (heads,)),
        "b": (b, (tokens, groups, states)),
        "c": (c, (tokens, groups, states)),
        "d": (d, (heads,)),
        "dt_bias": (dt_bias, (heads,)),
        "gate": (gate, (tokens, heads, width)),
        "scale": (scale, (tokens,)),
        "positions": (positions, (tokens,)),
        "initial_state": (initial_state, (len(pack.lengths), heads, width, states)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} must be {[*shape]}; got {[*tensor.shape]}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"x lies on {x.device}, {name} on {tensor.device}")
    if tokens != pack.tokens:
        raise ValueError(f"the pack has {pack.tokens} tokens, x has {tokens}")
    if groups < 1 or heads % groups:
        raise ValueError(f"{heads} heads cannot share {groups} groups of b and c")
    if x.dtype not in _DTYPES or any(m.dtype != x.dtype for m in (b, c, gate) if m is not None):
        raise ValueError(f"x, b, c and gate must be of one dtype, float32, float16 or bfloat16; got x as {x.dtype}")
    if x.is_cuda:
        if width not in (64, 128) or states not in (16, 32, 64, 128, 256):
            raise ValueError(f"the kernels take heads of 64 or 128 and states of 16 to 256; got {width} and {states}")
        for name, m in (("x", x), ("b", b), ("c", c), ("gate", gate)):
            if m is not None and (m.stride(2) != 1 or (m.shape[1] > 1 and m.stride(1) != m.shape[2])):
                raise ValueError(f"the heads of {name} must lie one after the other, contiguous")
        if initial_state is not None and not (initial_state.dtype == torch.float32 and initial_state.is_contiguous()):
            raise ValueError("the initial state must be float32 and contiguous")
        if dt.stride(1) != 1:
            raise ValueError("the heads of dt must be contiguous")
