"""The gradients of the SSD over a pack of documents: the reference in torch, and the kernels' entry for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kernels import ssd_tables
from kernels.pack import Pack
from kernels.ssd import NO_LIMIT, check, packed_ssd, scan, ssd_chunked

if TYPE_CHECKING:  # needs Triton, which a machine without a GPU may lack
    from kernels.ssd_triton import Prepared

WIDTH = 64  # of the heads that the kernels take
WIDEST_STATE = 128


class SsdGradients(NamedTuple):
    """The gradients of the inputs of `packed_ssd`; None where there was no such input."""

    rows: Tensor  # [T, H P + 2 G N], which x, b and c are slices of, in this order
    x: Tensor  # [T, H, P]
    b: Tensor  # [T, G, N]
    c: Tensor  # [T, G, N]
    dt: Tensor  # [T, H]
    a: Tensor  # [H]
    d: Tensor | None  # [H]
    dt_bias: Tensor | None  # [H]
    initial_state: Tensor | None  # [S, H, P, N]


class Kept(NamedTuple):
    """What a forward pass on a GPU leaves to the gradients that directly follow."""

    made: Prepared
    states: Tensor | None  # before each chunk, [C, H, P, N]


@torch.no_grad()
def packed_ssd_kept(
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
    positions: Tensor | None = None,
) -> tuple[Tensor, Kept | None]:
    """The y of `packed_ssd` of the same inputs, and what `packed_ssd_backward` need not compute again.

    That takes 2 H P N bytes for every 64 tokens in 16-bit floats, and is None on a CPU.
    """
    if not x.is_cuda:
        return packed_ssd(x, dt, a, b, c, pack, d, dt_bias, dt_limit, positions=positions)[0], None
    from kernels import ssd_hopper, ssd_triton

    check(x, dt, a, b, c, pack, d, dt_bias, None, None, None, positions)
    made = ssd_triton.prepare(dt, a, b, c, pack, dt_bias, dt_limit, None, positions)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    states = None
    if ssd_hopper.supports(x, b, None):
        states = torch.empty((made.decays.shape[1], *x.shape[1:], b.shape[2]), dtype=x.dtype, device=x.device)
    scan(x, made, pack, ssd_triton.Optional(d), ssd_triton.Outputs(y, None, None, states))
    return y, Kept(made, states)


@torch.no_grad()
def packed_ssd_backward(
    grad: Tensor,
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
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
    kept: Kept | None = None,
    grad_dt: Tensor | None = None,
) -> SsdGradients:
    """The gradients of a loss, given `grad` [T, H, P], that with respect to the y of `packed_ssd` without a gate.

    The inputs are those of `packed_ssd`, and grad is like x. On a GPU P is 64 and N at most 128; without `kept`, of
    `packed_ssd_kept` and the same inputs, the states are made again. The gradients of x, b and c come in x's dtype,
    that of dt in dt's dtype, in `grad_dt` [T, H] if that is given; those of a, d, dt_bias and the initial state in
    float32. The same inputs give the same bits. Raises ValueError for unsupported arguments.
    """
    check(x, dt, a, b, c, pack, d, dt_bias, grad, None, initial_state, positions)
    if not x.is_cuda:
        found = packed_ssd_backward_reference(
            grad, x, dt, a, b, c, pack, d, dt_bias, dt_limit, initial_state=initial_state, positions=positions
        )
        return found if grad_dt is None else found._replace(dt=grad_dt.copy_(found.dt))
    from kernels import ssd_backward_hopper, ssd_backward_triton

    width, states = x.shape[2], b.shape[2]
    if width != WIDTH or states > WIDEST_STATE:
        raise ValueError(f"gradients need heads of {WIDTH} and states of at most {WIDEST_STATE}; got {width}, {states}")
    by = ssd_backward_hopper if ssd_backward_hopper.supports(x, grad, b) else ssd_backward_triton
    return with_kernels(
        by.within_chunks, grad, x, dt, a, b, c, pack, d, dt_bias, dt_limit, initial_state=initial_state,
        positions=positions, kept=kept, grad_dt=grad_dt,
    )  # fmt: skip


def with_kernels(
    within_chunks: Callable[..., None],
    grad: Tensor,
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
    initial_state: Tensor | None,
    positions: Tensor | None,
    kept: Kept | None,
    grad_dt: Tensor | None,
) -> SsdGradients:
    """`packed_ssd_backward` by the kernels, with that of `ssd_backward_triton` or `ssd_backward_hopper` for chunks."""
    from kernels import ssd_backward_triton, ssd_triton

    tokens, heads, width = x.shape
    groups, states = b.shape[1:]
    grad_dt = torch.empty(dt.shape, dtype=dt.dtype, device=dt.device) if grad_dt is None else grad_dt
    grad_initial = None if initial_state is None else torch.empty_like(initial_state)
    made, before = kept or (ssd_triton.prepare(dt, a, b, c, pack, dt_bias, dt_limit, None, positions), None)
    if before is None:
        before = ssd_backward_triton.states(x, made.b, made, pack, initial_state, None, False)
    adjoints = ssd_backward_triton.states(grad, made.c, made, pack, None, grad_initial, True)
    chunks = pack.table("ssd chunks", ssd_tables.chunks)
    rows = torch.empty((tokens, heads * width + 2 * groups * states), dtype=x.dtype, device=x.device)
    sums = torch.empty((heads, len(chunks), 5, ssd_tables.CHUNK), dtype=torch.float32, device=x.device)
    within_chunks(x, grad, made, d, chunks, before, adjoints, rows, sums)
    of_a, of_bias, of_d = ssd_backward_triton.steps(dt, a, dt_bias, dt_limit, chunks, sums, groups, grad_dt)
    return SsdGradients(
        rows, *_slices(rows, x, b), grad_dt, of_a, None if d is None else of_d, None if dt_bias is None else of_bias,
        grad_initial,
    )  # fmt: skip


def _slices(rows: Tensor, x: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, b and c [T, H P + 2 G N] beside each other, each in its own shape."""
    widths = [m.shape[1] * m.shape[2] for m in (x, b, b)]
    of_x, of_b, of_c = rows.split(widths, dim=1)
    return of_x.unflatten(1, x.shape[1:]), of_b.unflatten(1, b.shape[1:]), of_c.unflatten(1, b.shape[1:])


def packed_ssd_backward_reference(
    grad: Tensor,
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
    initial_state: Tensor | None = None,
    positions: Tensor | None = None,
) -> SsdGradients:
    """The specification: torch's own gradients of `ssd_chunked`, document by document, in the inputs' dtypes."""
    named = {"x": x, "dt": dt, "a": a, "b": b, "c": c, "d": d, "dt_bias": dt_bias, "initial_state": initial_state}
    leaves = {name: m.detach().requires_grad_() for name, m in named.items() if m is not None}
    ends = np.cumsum(pack.lengths).tolist()
    ys = []
    with torch.enable_grad():
        for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            cut: dict[str, Any] = {}
            for name, m in leaves.items():
                cut[name] = m[None, start:end] if name in ("x", "dt", "b", "c") else m
            if initial_state is not None:
                cut["initial_state"] = leaves["initial_state"][i, None]
            if positions is not None:
                cut["positions"] = positions[None, start:end]
            ys.append(ssd_chunked(**cut, dt_limit=dt_limit)[0][0])
        y = torch.cat(ys)
    found = dict(zip(leaves, torch.autograd.grad(y, list(leaves.values()), grad), strict=True))
    rows = torch.cat([found[name].flatten(1) for name in ("x", "b", "c")], dim=1)
    return SsdGradients(
        rows, *_slices(rows, x, b), found["dt"], found["a"], *map(found.get, ("d", "dt_bias", "initial_state"))
    )
