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

and return y [B, L, H, P] in x's dtype and the final state [B, H, P, N] in float32, or float64 where x is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64  # positions a chunk
NO_LIMIT = (0.0, float("inf"))


def _time_steps(dt: Tensor, dt_bias: Tensor | None, dt_limit: tuple[float, float]) -> Tensor:
    """dt' of the module's docstring, in float32 at least."""
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
) -> tuple[Tensor, Tensor]:
    """The SSD as its recurrence, one position after another: the specification. See the module for shapes."""
    batch, length, heads, width = x.shape
    groups, states = b.shape[2:]
    dt = _time_steps(dt, dt_bias, dt_limit)
    wide = dt.dtype
    xs = x.to(wide)
    bs, cs = (m.to(wide).repeat_interleave(heads // groups, dim=2) for m in (b, c))  # [B, L, H, N]
    decay = torch.exp(dt * a.to(wide))
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
    log_decay = torch.cumsum(dts * a.to(wide), dim=2)  # [B, K, Q, H], from the chunk's start
    xdt = xs * dts[..., None]  # [B, K, Q, H, P]

    # Inside a chunk: attention without softmax, (C Bᵀ) ∘ decay from j to i.
    by_head = log_decay.transpose(2, 3)
    past = torch.ones(step, step, dtype=torch.bool, device=x.device).tril()
    decay = (by_head[..., :, None] - by_head[..., None, :]).masked_fill(~past, float("-inf")).exp()
    scores = cs @ bs.transpose(3, 4)  # [Q, N] @ [N, Q]
    mixing = (scores[:, :, :, None] * decay.unflatten(2, (groups, shared))).flatten(2, 3)
    y = (mixing.to(narrow) @ xdt.to(narrow).transpose(2, 3)).transpose(2, 3)  # [Q, Q] @ [Q, P]

    # What each chunk alone adds to the state, seen from its end. The heads of a group share B: one product for all.
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
