"""The SSD over a pack of documents as Triton kernels, forward only; `kernels.ssd` has the maths and the reference.

Chunks start anew at every document, so that no state crosses from one to the next. Four kernels:

    prepare      a chunk and a group: the running log decay of its heads, C Bᵀ, and B and C with zeros past the end
    shares       only if documents are longer than a segment: the contribution of each of its pieces to the state
    pass states  only then: the state after each piece, and so before each segment but a document's first
    scan         a segment and a head: the state stays in registers from chunk to chunk

The tensors between them have an axis of C chunks of Q positions, padded where a document ends: decays [H, C, 2, Q]
float32, in base 2, and 640 bytes a position of B, C and C Bᵀ at state 128, written once and read from the L2 cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels import ssd_tables
from kernels.pack import LOG2_E, Pack
from kernels.ssd_tables import CHUNK, FORGOTTEN

_LOG2_E = tl.constexpr(LOG2_E)
_FORGOTTEN = tl.constexpr(FORGOTTEN)
STEEP = 100.0  # a log in base 2 above any that occurs, whose power is finite
_STEEP = tl.constexpr(STEEP)


@triton.jit
def _prepare_kernel(
    dt_ptr, dt_bias_ptr, a_ptr, b_ptr, c_ptr, scale_ptr, positions_ptr, chunks_ptr,
    decays_ptr, padded_b_ptr, padded_c_ptr, cb_ptr,
    low, high, stride_dt, stride_b, stride_c,
    SHARED: tl.constexpr, BLOCK_H: tl.constexpr, N: tl.constexpr, Q: tl.constexpr, GROUPS: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr, HAS_POSITIONS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, group), with SHARED heads a group.

    `decays` [H, C, 2, Q] has the log decay from the chunk's start to a position, and the same less log2 of its time
    step ("shifted"): 2^(log[i] - shifted[j]) is the weight of position j at position i; zero past the end.
    """
    chunk = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    start = tl.load(chunks_ptr + 2 * chunk).to(tl.int64)
    length = tl.load(chunks_ptr + 2 * chunk + 1)
    q = tl.arange(0, Q)
    inside = q < length
    rows = start + q

    h = tl.arange(0, BLOCK_H)
    heads = group * SHARED + h
    known = h < SHARED
    there = inside[:, None] & known[None, :]
    dt = tl.load(dt_ptr + rows[:, None] * stride_dt + heads[None, :], mask=there, other=0.0).to(tl.float32)
    if HAS_SCALE:
        dt *= tl.load(scale_ptr + rows, mask=inside, other=0.0)[:, None]
    if HAS_BIAS:
        dt += tl.load(dt_bias_ptr + heads, mask=known, other=0.0).to(tl.float32)[None, :]
    dt = tl.maximum(dt, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(dt)))  # softplus
    dt = tl.where(there, tl.minimum(tl.maximum(dt, low), high), 0.0)
    a = tl.load(a_ptr + heads, mask=known, other=0.0).to(tl.float32) * _LOG2_E
    steps = dt * a[None, :]
    if HAS_POSITIONS:
        begins = tl.load(positions_ptr + rows, mask=inside, other=1) == 0
        steps = tl.where(begins[:, None], _FORGOTTEN, steps)
    logs = tl.cumsum(steps, axis=0)
    out = (heads.to(tl.int64)[None, :] * tl.num_programs(0) + chunk) * (2 * Q) + q[:, None]
    tl.store(decays_ptr + out, logs, mask=known[None, :])
    none = dt == 0
    shifted = tl.where(none, float("inf"), logs - tl.log2(tl.where(none, 1.0, dt)))
    tl.store(decays_ptr + out + Q, shifted, mask=known[None, :])

    n = tl.arange(0, N)
    b = tl.load(b_ptr + rows[:, None] * stride_b + group * N + n[None, :], mask=inside[:, None], other=0.0)
    c = tl.load(c_ptr + rows[:, None] * stride_c + group * N + n[None, :], mask=inside[:, None], other=0.0)
    out = ((chunk * Q + q) * GROUPS + group)[:, None] * N + n[None, :]
    tl.store(padded_b_ptr + out, b)
    tl.store(padded_c_ptr + out, c)
    cb = tl.dot(c, tl.trans(b), input_precision=PRECISION)  # [Q, N] @ [N, Q]
    cb = tl.where(q[:, None] >= q[None, :], cb, 0.0)
    out = ((chunk * GROUPS + group) * Q + q)[:, None] * Q + q[None, :]
    tl.store(cb_ptr + out, cb.to(cb_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["n_chunks"])
def _shares_kernel(
    x_ptr, b_ptr, decays_ptr, pieces_ptr, shares_ptr,
    n_chunks, stride_x,
    HEADS: tl.constexpr, SHARED: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
    ARANGE: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (head, piece of ARANGE whole chunks at most): the contribution of its inputs to the state at its end.

    From the last chunk to the first, so that no product is scaled again, and no further than where the decay to the
    end is zero in float32.
    """
    head = tl.program_id(0)
    index = tl.program_id(1).to(tl.int64)
    group = head // SHARED
    start = tl.load(pieces_ptr + 6 * index).to(tl.int64)
    chunks = tl.load(pieces_ptr + 6 * index + 1) // Q
    chunk = tl.load(pieces_ptr + 6 * index + 2).to(tl.int64)
    q = tl.arange(0, Q)
    p = tl.arange(0, P)
    n = tl.arange(0, N)
    x_ptr += start * stride_x + head * P
    b_ptr += (chunk * Q * (HEADS // SHARED) + group) * N
    decays_ptr += (head.to(tl.int64) * n_chunks + chunk) * (2 * Q)

    k = tl.arange(0, ARANGE)
    totals = tl.load(decays_ptr + k * (2 * Q) + Q - 1, mask=k < chunks, other=0.0)
    after = tl.sum(totals) - tl.cumsum(totals)  # from each chunk's end to the piece's
    remembered = tl.sum(((after > _FORGOTTEN) & (k < chunks)).to(tl.int32))
    state = tl.zeros((P, N), dtype=tl.float32)
    to_end = 0.0
    for i in tl.range(0, remembered, num_stages=STAGES):
        rows = (chunks - 1 - i) * Q + q
        decays = decays_ptr + (chunks - 1 - i) * (2 * Q)
        x = tl.load(x_ptr + rows[:, None] * stride_x + p[None, :])
        b = tl.load(b_ptr + rows[:, None] * (HEADS // SHARED * N) + n[None, :])
        to_end += tl.load(decays + Q - 1)
        weights = tl.exp2(to_end - tl.load(decays + Q + q))
        weighted = (x.to(tl.float32) * weights[:, None]).to(x.dtype)
        state = tl.dot(tl.trans(weighted), b, state, input_precision=PRECISION)  # [P, Q] @ [Q, N]
    tl.store(shares_ptr + (index * HEADS + head) * P * N + p[:, None] * N + n[None, :], state)


@triton.jit(do_not_specialize=["n_chunks", "has_initial"])
def _pass_states_kernel(
    states_ptr, decays_ptr, chains_ptr, initial_ptr,
    n_chunks, has_initial,
    HEADS: tl.constexpr, SIZE: tl.constexpr, Q: tl.constexpr, BLOCK: tl.constexpr, ARANGE: tl.constexpr,
):  # fmt: skip
    """Program (head, long document, part of the state): the state after each piece takes the place of its share."""
    head = tl.program_id(0)
    chain = chains_ptr + 5 * tl.program_id(1)
    first = tl.load(chain).to(tl.int64)
    count = tl.load(chain + 1)
    chunks = tl.load(chain + 4)
    place = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    state = tl.zeros((BLOCK,), dtype=tl.float32)
    if has_initial != 0:
        state = tl.load(initial_ptr + (tl.load(chain + 2).to(tl.int64) * HEADS + head) * SIZE + place).to(tl.float32)
    k = tl.arange(0, ARANGE)
    totals_ptr = decays_ptr + (head.to(tl.int64) * n_chunks + tl.load(chain + 3) + k) * (2 * Q) + Q - 1
    for i in tl.range(0, count, num_stages=3):
        share_ptr = states_ptr + ((first + i) * HEADS + head) * SIZE + place
        total = tl.sum(tl.load(totals_ptr + i * (chunks * 2 * Q), mask=k < chunks, other=0.0))
        state = state * tl.exp2(total) + tl.load(share_ptr)
        tl.store(share_ptr, state)


@triton.jit(do_not_specialize=["tokens", "n_chunks", "has_initial", "has_final"])
def _scan_kernel(
    x_ptr, b_ptr, c_ptr, cb_ptr, decays_ptr, d_ptr, gate_ptr, scale_ptr,
    segments_ptr, initial_ptr, entries_ptr, y_ptr, squares_ptr, final_ptr,
    tokens, n_chunks, stride_x, stride_gate, has_initial, has_final,
    HEADS: tl.constexpr, SHARED: tl.constexpr, P: tl.constexpr, N: tl.constexpr, Q: tl.constexpr,
    HAS_D: tl.constexpr, HAS_GATE: tl.constexpr, HAS_SCALE: tl.constexpr, SILU: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (head, segment). Everything is transposed, [P, Q], so that the state is an operand from registers."""
    head = tl.program_id(0)
    group = head // SHARED
    groups: tl.constexpr = HEADS // SHARED
    segment = segments_ptr + 6 * tl.program_id(1)
    start = tl.load(segment).to(tl.int64)
    length = tl.load(segment + 1)
    chunk = tl.load(segment + 2).to(tl.int64)
    document = tl.load(segment + 3).to(tl.int64)
    entry = tl.load(segment + 4).to(tl.int64)
    q = tl.arange(0, Q)
    p = tl.arange(0, P)
    n = tl.arange(0, N)
    dtype = x_ptr.dtype.element_ty

    matrix = p[:, None] * N + n[None, :]
    state = tl.zeros((P, N), dtype=tl.float32)
    if entry >= 0:
        state = tl.load(entries_ptr + (entry * HEADS + head) * P * N + matrix)
    elif has_initial != 0:
        state = tl.load(initial_ptr + (document * HEADS + head) * P * N + matrix).to(tl.float32)

    x_ptr += start * stride_x + head * P
    y_ptr += (start * HEADS + head) * P
    b_ptr += (chunk * Q * groups + group) * N
    c_ptr += (chunk * Q * groups + group) * N
    cb_ptr += (chunk * groups + group) * Q * Q
    decays_ptr += (head.to(tl.int64) * n_chunks + chunk) * (2 * Q)
    if HAS_D:
        skip = tl.load(d_ptr + head).to(tl.float32)
    if HAS_GATE:
        gate_ptr += start * stride_gate + head * P
        squares_ptr += head.to(tl.int64) * tokens + start
    if HAS_SCALE:
        scale_ptr += start

    for first in tl.range(0, length, Q, num_stages=STAGES):
        rows = first + q
        inside = rows < length
        x = tl.load(x_ptr + rows[:, None] * stride_x + p[None, :], mask=inside[:, None], other=0.0)
        b = tl.load(b_ptr + rows[:, None] * (groups * N) + n[None, :])
        c = tl.load(c_ptr + rows[:, None] * (groups * N) + n[None, :])
        cb = tl.load(cb_ptr + (first * groups + q)[:, None] * Q + q[None, :])
        decays = decays_ptr + 2 * first
        logs = tl.load(decays + q)
        shifted = tl.load(decays + Q + q)
        total = tl.load(decays + Q - 1)

        # The contribution of the state before the chunk: [P, N] @ [N, Q]
        yt = tl.dot(state.to(dtype), tl.trans(c), input_precision=PRECISION) * tl.exp2(logs)[None, :]
        # The contribution of the chunk's own inputs, j to i: [P, Qj] @ [Qj, Qi]
        decay = tl.exp2(tl.minimum(logs[None, :] - shifted[:, None], _STEEP))
        mixing = tl.trans(cb).to(tl.float32) * decay
        y = tl.trans(tl.dot(tl.trans(x), mixing.to(dtype), yt, input_precision=PRECISION))
        # Their contribution to the state: [P, Q] @ [Q, N]
        weighted = (x.to(tl.float32) * tl.exp2(total - shifted)[:, None]).to(dtype)
        state = tl.dot(tl.trans(weighted), b, state * tl.exp2(total), input_precision=PRECISION)

        if HAS_D:
            y += skip * x.to(tl.float32)
        if HAS_GATE:
            z = tl.load(gate_ptr + rows[:, None] * stride_gate + p[None, :], mask=inside[:, None], other=0.0)
            z = z.to(tl.float32)
            if HAS_SCALE:
                z *= tl.load(scale_ptr + rows, mask=inside, other=0.0)[:, None]
            y *= z / (1.0 + tl.exp2(z * -_LOG2_E)) if SILU else z
            tl.store(squares_ptr + rows, tl.sum(y * y, axis=1), mask=inside)
        tl.store(y_ptr + rows[:, None] * (HEADS * P) + p[None, :], y.to(y_ptr.dtype.element_ty), mask=inside[:, None])

    if has_final != 0:
        if tl.load(segment + 5) != 0:
            tl.store(final_ptr + (document * HEADS + head) * P * N + matrix, state)


@dataclass
class Prepared:
    """The tensors that `prepare` makes for a scan: C chunks of Q positions, padded where a document ends."""

    decays: Tensor  # [H, C, 2, Q] float32
    b: Tensor  # [C Q, G, N]
    c: Tensor  # [C Q, G, N]
    cb: Tensor  # [C, G, Q, Q]


@dataclass
class Optional:
    """The optional inputs of a scan."""

    d: Tensor | None = None
    gate: Tensor | None = None
    silu: bool = True  # of the gate
    scale: Tensor | None = None
    initial_state: Tensor | None = None


@dataclass
class Outputs:
    """The outputs of a scan, allocated: `squares` if there is a gate, None for others that are not wanted."""

    y: Tensor | None
    squares: Tensor | None
    final_state: Tensor | None
    states: Tensor | None = None  # before each chunk, [C, H, P, N] in x's dtype; only the scan for Hopper has them


def states_of(made: Prepared, given: Optional, entries: Tensor | None) -> tuple[Tensor, Tensor]:
    """The states before documents and before segments; if there are none, another tensor, which kernels do not read."""
    initial = given.initial_state
    return made.decays if initial is None else initial, made.decays if entries is None else entries


def precision(x: Tensor) -> str:
    """Triton's input precision for products of x's dtype: full for float32; it does not matter for 16-bit types."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def prepare(
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    pack: Pack,
    dt_bias: Tensor | None,
    dt_limit: tuple[float, float],
    scale: Tensor | None,
    positions: Tensor | None = None,
) -> Prepared:
    """Launches `_prepare_kernel`."""
    heads = dt.shape[1]
    groups, states = b.shape[1:]
    shared = heads // groups
    chunks = pack.table("ssd chunks", ssd_tables.chunks)
    padded = len(chunks) * CHUNK
    decays = torch.empty((heads, len(chunks), 2, CHUNK), dtype=torch.float32, device=b.device)
    padded_b, padded_c = torch.empty((2, padded, groups, states), dtype=b.dtype, device=b.device)
    cb = torch.empty((len(chunks), groups, CHUNK, CHUNK), dtype=b.dtype, device=b.device)
    _prepare_kernel[(len(chunks), groups)](
        dt, dt_bias, a, b, c, scale, positions, chunks, decays, padded_b, padded_c, cb,
        *dt_limit, dt.stride(0), b.stride(0), c.stride(0),
        SHARED=shared, BLOCK_H=triton.next_power_of_2(shared), N=states, Q=CHUNK, GROUPS=groups,
        HAS_BIAS=dt_bias is not None, HAS_SCALE=scale is not None,
        HAS_POSITIONS=positions is not None, PRECISION=precision(b), num_warps=4,
    )  # fmt: skip
    return Prepared(decays, padded_b, padded_c, cb)


def shares(x: Tensor, made: Prepared, pack: Pack, cut: ssd_tables.Cut = ssd_tables.CUT) -> Tensor:
    """The contribution of each piece to the state at its end: [E, H, P, N] float32, E as in `ssd_tables.pieces`."""
    heads, width = x.shape[1:]
    groups, states = made.b.shape[1:]
    pieces = pack.table(f"ssd pieces {cut}", lambda lengths: ssd_tables.pieces(lengths, cut))
    out = torch.empty((len(pieces), heads, width, states), dtype=torch.float32, device=x.device)
    _shares_kernel[(heads, len(pieces))](
        x, made.b, made.decays, pieces, out, made.decays.shape[1], x.stride(0),
        HEADS=heads, SHARED=heads // groups, P=width, N=states, Q=CHUNK,
        ARANGE=triton.next_power_of_2(cut.chunks), STAGES=3 if x.dtype != torch.float32 else 1,
        PRECISION=precision(x), num_warps=4,
    )  # fmt: skip
    return out


def pass_states(
    shares: Tensor, made: Prepared, pack: Pack, initial_state: Tensor | None, cut: ssd_tables.Cut = ssd_tables.CUT
) -> None:
    """Replaces the `shares` of pieces by the states after them."""
    heads, width, states = shares.shape[1:]
    chains = pack.table(f"ssd chains {cut}", lambda lengths: ssd_tables.chains(lengths, cut))
    block = min(width * states, 1024)
    _pass_states_kernel[(heads, len(chains), width * states // block)](
        shares, made.decays, chains, made.decays if initial_state is None else initial_state,
        made.decays.shape[1], int(initial_state is not None),
        HEADS=heads, SIZE=width * states, Q=CHUNK, BLOCK=block, ARANGE=triton.next_power_of_2(cut.chunks), num_warps=4,
    )  # fmt: skip


def scan(
    x: Tensor, made: Prepared, entries: Tensor | None, pack: Pack, given: Optional, outputs: Outputs,
    cut: ssd_tables.Cut = ssd_tables.CUT,
) -> None:  # fmt: skip
    """Launches the scan kernel: fills `outputs`."""
    tokens, heads, width = x.shape
    groups, states = made.b.shape[1:]
    segments = pack.table(f"ssd segments {cut}", lambda lengths: ssd_tables.segments(lengths, cut))
    _scan_kernel[(heads, len(segments))](
        x, made.b, made.c, made.cb, made.decays, given.d, given.gate, given.scale,
        segments, *states_of(made, given, entries), outputs.y, outputs.squares,
        made.decays if outputs.final_state is None else outputs.final_state,
        tokens, made.decays.shape[1], x.stride(0), 0 if given.gate is None else given.gate.stride(0),
        int(given.initial_state is not None), int(outputs.final_state is not None),
        HEADS=heads, SHARED=heads // groups, P=width, N=states, Q=CHUNK,
        HAS_D=given.d is not None, HAS_GATE=given.gate is not None, HAS_SCALE=given.scale is not None,
        SILU=given.silu, STAGES=2 if x.dtype != torch.float32 else 1, PRECISION=precision(x), num_warps=4,
    )  # fmt: skip
