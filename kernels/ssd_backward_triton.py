"""The gradients of the SSD over a pack as Triton kernels; `kernels.ssd` has the reference, the README the maths.

Four kernels, on what `ssd_triton.prepare` makes. The adjoint of a state is the gradient with respect to it.

    states       a document and a head, forwards: the state before each chunk
    states       the same from the end: the adjoint of the state after each chunk
    gradients    a chunk and a group: x, B and C, whose sums over the group's heads stay in registers; of each head and
                 position, what the time steps and decays need
    steps        a chunk and a group: from these the gradients of dt, and the chunk's share of those of A and dt_bias

Sums over heads and chunks have a fixed order, so that the bits do too. Between the kernels lie the states and their
adjoints, [C, H, P, N] in x's dtype, and three numbers a head and position.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import ssd_tables
from kernels.pack import Pack
from kernels.ssd_tables import CHUNK
from kernels.ssd_triton import STEEP, Prepared, precision

_STEEP = tl.constexpr(STEEP)


@triton.jit(do_not_specialize=["n_chunks", "has_initial", "has_last"])
def _states_kernel(
    rows_ptr, wide_ptr, decays_ptr, documents_ptr, initial_ptr, states_ptr, last_ptr,
    n_chunks, stride, has_initial, has_last,
    HEADS: tl.constexpr, SHARED: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
    BACKWARDS: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (head, document): stores the state at each chunk, before its inputs are added.

    Forwards the inputs are x and B, weighted by the decay to the chunk's end; backwards they are the gradient of y and
    C, weighted by that from its start.
    """
    head = tl.program_id(0)
    groups: tl.constexpr = HEADS // SHARED
    document = documents_ptr + 4 * tl.program_id(1)
    start = tl.load(document).to(tl.int64)
    length = tl.load(document + 1)
    chunk = tl.load(document + 2).to(tl.int64)
    number = tl.load(document + 3).to(tl.int64)
    q = tl.arange(0, Q)
    p = tl.arange(0, P)
    n = tl.arange(0, N)
    dtype = rows_ptr.dtype.element_ty
    matrix = p[:, None] * N + n[None, :]
    state = tl.zeros((P, N), dtype=tl.float32)
    if has_initial != 0:
        state = tl.load(initial_ptr + (number * HEADS + head) * P * N + matrix).to(tl.float32)

    rows_ptr += start * stride + head * P
    wide_ptr += (chunk * Q * groups + head // SHARED) * N
    states_ptr += (chunk * HEADS + head) * P * N
    decays_ptr += (head.to(tl.int64) * n_chunks + chunk) * (2 * Q)
    count = tl.cdiv(length, Q)
    for i in tl.range(0, count, num_stages=STAGES):
        k = i
        if BACKWARDS:
            k = count - 1 - i
        at = k * Q + q
        place = at.to(tl.int64)[:, None] * stride + p[None, :]
        rows = tl.load(rows_ptr + place, mask=(at < length)[:, None], other=0.0)
        wide = tl.load(wide_ptr + at[:, None] * (groups * N) + n[None, :])
        decays = decays_ptr + 2 * k * Q
        total = tl.load(decays + Q - 1)
        if BACKWARDS:
            weights = tl.exp2(tl.load(decays + q))
        else:
            weights = tl.exp2(total - tl.load(decays + Q + q))
        tl.store(states_ptr + k.to(tl.int64) * (HEADS * P * N) + matrix, state.to(states_ptr.dtype.element_ty))
        weighted = (rows.to(tl.float32) * weights[:, None]).to(dtype)
        state = tl.dot(tl.trans(weighted), wide, state * tl.exp2(total), input_precision=PRECISION)  # [P, Q] @ [Q, N]

    if has_last != 0:
        tl.store(last_ptr + (number * HEADS + head) * P * N + matrix, state)


@triton.jit(do_not_specialize=["n_chunks"])
def _gradients_kernel(
    x_ptr, grad_ptr, b_ptr, c_ptr, cb_ptr, decays_ptr, d_ptr, chunks_ptr, states_ptr, adjoints_ptr,
    grad_x_ptr, grad_b_ptr, grad_c_ptr, sums_ptr,
    n_chunks, stride_x, stride_grad, stride_out,
    HEADS: tl.constexpr, SHARED: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
    HAS_D: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, group): one head of the group after the other. P is Q.

    `sums` [H, C, 5, Q] has the products of each weight with its gradient, summed: of a position's row, with the state
    before the chunk; of its column inside the chunk; of its D, without D; of its part of the state after the chunk; of
    a row of the state, kept through the chunk.
    """
    chunk = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    groups: tl.constexpr = HEADS // SHARED
    start = tl.load(chunks_ptr + 2 * chunk).to(tl.int64)
    length = tl.load(chunks_ptr + 2 * chunk + 1)
    q = tl.arange(0, Q)
    p = tl.arange(0, P)
    n = tl.arange(0, N)
    dtype = x_ptr.dtype.element_ty
    inside = (q < length)[:, None]
    rows = (start + q)[:, None]
    matrix = p[:, None] * N + n[None, :]

    place = ((chunk * Q + q) * groups + group)[:, None] * N + n[None, :]
    b = tl.load(b_ptr + place)
    c = tl.load(c_ptr + place)
    cb = tl.load(cb_ptr + ((chunk * groups + group) * Q + q)[:, None] * Q + q[None, :]).to(tl.float32)
    past = q[:, None] >= q[None, :]
    grad_cb = tl.zeros((Q, Q), dtype=tl.float32)
    grad_b = tl.zeros((Q, N), dtype=tl.float32)
    grad_c = tl.zeros((Q, N), dtype=tl.float32)
    for i in tl.range(0, SHARED, num_stages=STAGES):
        head = group * SHARED + i
        x = tl.load(x_ptr + rows * stride_x + head * P + p[None, :], mask=inside, other=0.0)
        grad = tl.load(grad_ptr + rows * stride_grad + head * P + p[None, :], mask=inside, other=0.0)
        state = tl.load(states_ptr + (chunk * HEADS + head) * (P * N) + matrix)
        adjoint = tl.load(adjoints_ptr + (chunk * HEADS + head) * (P * N) + matrix)
        decays = decays_ptr + (head.to(tl.int64) * n_chunks + chunk) * (2 * Q)
        logs = tl.load(decays + q)
        shifted = tl.load(decays + Q + q)
        total = tl.load(decays + Q - 1)
        from_start = tl.exp2(logs)
        to_end = tl.exp2(total - shifted)
        decay = tl.exp2(tl.minimum(logs[:, None] - shifted[None, :], _STEEP))
        decay = tl.where(past, decay, 0.0)

        # Inside the chunk, j to i.
        pairs = tl.dot(grad, tl.trans(x), input_precision=PRECISION)  # [Qi, P] @ [P, Qj]
        diagonal = tl.sum(tl.where(q[:, None] == q[None, :], pairs, 0.0), axis=1)
        pairs *= decay
        grad_cb += pairs
        pairs *= cb
        mixing = (cb * decay).to(dtype)
        within = tl.dot(tl.trans(mixing), grad, input_precision=PRECISION)  # [Qj, Qi] @ [Qi, P]
        # From the chunk to the state after it.
        after = tl.dot(b, tl.trans(adjoint), input_precision=PRECISION) * to_end[:, None]  # [Q, N] @ [N, P]
        weighted = (x.to(tl.float32) * to_end[:, None]).to(dtype)
        grad_b = tl.dot(weighted, adjoint, grad_b, input_precision=PRECISION)  # [Q, P] @ [P, N]
        # From the state before the chunk.
        before = tl.dot(grad, state, input_precision=PRECISION) * from_start[:, None]  # [Q, P] @ [P, N]
        grad_c += before

        grad_x = within + after
        if HAS_D:
            grad_x += tl.load(d_ptr + head).to(tl.float32) * grad.to(tl.float32)
        grad_x_rows = grad_x_ptr + rows * stride_out + head * P + p[None, :]
        tl.store(grad_x_rows, grad_x.to(grad_x_ptr.dtype.element_ty), mask=inside)

        sums = sums_ptr + (head.to(tl.int64) * n_chunks + chunk) * (5 * Q)
        tl.store(sums + q, tl.sum(pairs, axis=1) + tl.sum(before * c.to(tl.float32), axis=1))
        tl.store(sums + Q + q, tl.sum(pairs, axis=0))
        tl.store(sums + 2 * Q + q, diagonal)
        tl.store(sums + 3 * Q + q, tl.sum(after * x.to(tl.float32), axis=1))
        kept = tl.sum(state.to(tl.float32) * adjoint.to(tl.float32), axis=1) * tl.exp2(total)
        tl.store(sums + 4 * Q + p, kept)

    grad_cb = grad_cb.to(dtype)
    grad_c = tl.dot(grad_cb, b, grad_c, input_precision=PRECISION)  # [Qi, Qj] @ [Qj, N]
    grad_b = tl.dot(tl.trans(grad_cb), c, grad_b, input_precision=PRECISION)  # [Qj, Qi] @ [Qi, N]
    out = rows * stride_out + group * N + n[None, :]
    tl.store(grad_b_ptr + out, grad_b.to(grad_b_ptr.dtype.element_ty), mask=inside)
    tl.store(grad_c_ptr + out, grad_c.to(grad_c_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_chunks"])
def _steps_kernel(
    dt_ptr, dt_bias_ptr, a_ptr, chunks_ptr, sums_ptr, grad_dt_ptr, parts_ptr,
    low, high, n_chunks, stride_dt, stride_grad,
    HEADS: tl.constexpr, SHARED: tl.constexpr, BLOCK_H: tl.constexpr, Q: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Program (chunk, group). `parts` [C, 3, H] has the chunk's shares of the gradients of A, dt_bias and D."""
    chunk = tl.program_id(0).to(tl.int64)
    start = tl.load(chunks_ptr + 2 * chunk).to(tl.int64)
    length = tl.load(chunks_ptr + 2 * chunk + 1)
    q = tl.arange(0, Q)
    h = tl.arange(0, BLOCK_H)
    heads = tl.program_id(1) * SHARED + h
    known = h < SHARED
    there = (q < length)[:, None] & known[None, :]
    rows = (start + q)[:, None]
    raw = tl.load(dt_ptr + rows * stride_dt + heads[None, :], mask=there, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(dt_bias_ptr + heads, mask=known, other=0.0).to(tl.float32)[None, :]
    soft = tl.maximum(raw, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(raw)))
    step = tl.minimum(tl.maximum(soft, low), high)
    a = tl.load(a_ptr + heads, mask=known, other=0.0).to(tl.float32)

    sums = sums_ptr + (heads.to(tl.int64)[None, :] * n_chunks + chunk) * (5 * Q) + q[:, None]
    known_sums = known[None, :]
    row = tl.load(sums, mask=known_sums, other=0.0)
    column = tl.load(sums + Q, mask=known_sums, other=0.0)
    diagonal = tl.load(sums + 2 * Q, mask=known_sums, other=0.0)
    to_state = tl.load(sums + 3 * Q, mask=known_sums, other=0.0)
    kept = tl.load(sums + 4 * Q, mask=known_sums, other=0.0)
    # A position's decay is in all weights that lead from before it to it or to what follows.
    decay = tl.cumsum(row - column, axis=0, reverse=True) + tl.cumsum(to_state, axis=0) - to_state
    decay += tl.sum(kept, axis=0)[None, :]
    direct = tl.where(step > 0, (column + to_state) / tl.where(step > 0, step, 1.0), 0.0)
    grad = decay * a[None, :] + direct
    grad = tl.where(there & (soft >= low) & (soft <= high), grad / (1.0 + tl.exp(-raw)), 0.0)
    tl.store(grad_dt_ptr + rows * stride_grad + heads[None, :], grad.to(grad_dt_ptr.dtype.element_ty), mask=there)
    parts = parts_ptr + chunk * (3 * HEADS) + heads
    tl.store(parts, tl.sum(tl.where(there, decay * step, 0.0), axis=0), mask=known)
    tl.store(parts + HEADS, tl.sum(grad, axis=0), mask=known)
    tl.store(parts + 2 * HEADS, tl.sum(tl.where(there, diagonal, 0.0), axis=0), mask=known)


def states(
    rows: Tensor, wide: Tensor, made: Prepared, pack: Pack, first: Tensor | None, last: Tensor | None, backwards: bool
) -> Tensor:
    """The state of each document before each chunk, [C, H, P, N] in rows' dtype; backwards, its adjoint after each.

    rows [T, H, P] and wide [C Q, G, N] are x and the padded B; backwards the gradient of y and C. `first` is the state
    to begin with, or zeros; into `last` goes the one at the end, if it is given: [S, H, P, N] float32.
    """
    heads, width = rows.shape[1:]
    n_chunks = made.decays.shape[1]
    documents = pack.table("ssd documents", ssd_tables.documents)
    out = torch.empty((n_chunks, heads, width, wide.shape[2]), dtype=rows.dtype, device=rows.device)
    _states_kernel[(heads, len(documents))](
        rows, wide, made.decays, documents, out if first is None else first, out, out if last is None else last,
        n_chunks, rows.stride(0), int(first is not None), int(last is not None), **_sizes(rows, wide),
        BACKWARDS=backwards, STAGES=1 if rows.dtype == torch.float32 else 2 if backwards else 4, num_warps=4,
    )  # fmt: skip
    return out


def within_chunks(
    x: Tensor, grad: Tensor, made: Prepared, d: Tensor | None, chunks: Tensor, before: Tensor, adjoints: Tensor,
    rows: Tensor, sums: Tensor,
) -> None:  # fmt: skip
    """Fills `rows` [T, H P + 2 G N] with the gradients of x, B and C, and `sums` [H, C, 5, Q] float32."""
    heads, width = x.shape[1:]
    groups, states = made.b.shape[1:]
    n_chunks = len(chunks)
    grad_x, grad_b, grad_c = rows.split((heads * width, groups * states, groups * states), dim=1)
    _gradients_kernel[(n_chunks, groups)](
        x, grad, made.b, made.c, made.cb, made.decays, d, chunks, before, adjoints,
        grad_x, grad_b, grad_c, sums, n_chunks, x.stride(0), grad.stride(0), rows.stride(0), **_sizes(x, made.b),
        HAS_D=d is not None, STAGES=1 if x.dtype == torch.float32 else 2, num_warps=8,
    )  # fmt: skip


def steps(
    dt: Tensor, a: Tensor, dt_bias: Tensor | None, dt_limit: tuple[float, float], chunks: Tensor, sums: Tensor,
    groups: int, grad_dt: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Fills `grad_dt` [T, H], and returns the gradients of A, dt_bias and D, [H] float32."""
    heads, n_chunks = sums.shape[:2]
    parts = torch.empty((n_chunks, 3, heads), dtype=torch.float32, device=dt.device)
    _steps_kernel[(n_chunks, groups)](
        dt, dt_bias, a, chunks, sums, grad_dt, parts, *dt_limit, n_chunks, dt.stride(0), grad_dt.stride(0),
        HEADS=heads, SHARED=heads // groups, BLOCK_H=triton.next_power_of_2(heads // groups), Q=CHUNK,
        HAS_BIAS=dt_bias is not None, num_warps=4,
    )  # fmt: skip
    of_a, of_bias, of_d = parts.sum(0)
    return of_a, of_bias, of_d


def _sizes(x: Tensor, b: Tensor) -> dict[str, Any]:
    (heads, width), (groups, states) = x.shape[1:], b.shape[1:]
    return {
        "HEADS": heads, "SHARED": heads // groups, "P": width, "N": states, "Q": CHUNK, "PRECISION": precision(x),
    }  # fmt: skip
