"""The scan and the shares of the SSD on Hopper (compute capability 9.x) in Gluon; the rest is in `kernels.ssd_triton`.

One program a multiprocessor goes through its share of (segment, two heads). A producer warp copies B, C and C Bᵀ once
for both heads, and the decays, x and the gate of each, into a ring of shared memory by TMA, without a pause between
segments. Four warps a head keep its state in registers from chunk to chunk; it passes through shared memory only to be
an operand.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels import ssd_tables, tiles_hopper
from kernels.pack import Pack
from kernels.ssd_tables import CHUNK, Parts
from kernels.ssd_triton import STEEP, Optional, Outputs, Prepared, states_of
from kernels.tiles_hopper import barrier, load, next_stage, silu, store

HEADS = 2  # that a program takes at a time
FIELDS = 8  # columns of the table `ssd_tables.items`
_STAGES = 2
_STATES_STAGES = 4  # if only the states are computed, which leaves room
_REGISTERS, _PRODUCER_REGISTERS = gl.constexpr(200), gl.constexpr(24)
_TOGETHER, _FIELDS, _Q, _STEEP = (gl.constexpr(value) for value in (HEADS, FIELDS, CHUNK, STEEP))
_DECAYS = gl.NVMMASharedLayout(0, 32, 1)


@gluon.jit
def _produce(sources, work, tiles, bars, n_chunks, GROUPS: gl.constexpr, P: gl.constexpr, N: gl.constexpr):
    """The producer warp: copies the inputs of each chunk of the program's items into the ring.

    sources: descriptors of x, gate, B, C, C B^T and the decays; the other tuples as in `_consume`.
    """
    x, gate, b, c, cb, decays = sources
    items, offsets = work
    x_tiles, gate_tiles, b_tiles, c_tiles, cb_tiles, decay_tiles, _ = tiles
    full, empty, gate_full, gate_empty = bars
    STAGES: gl.constexpr = b_tiles.shape[0]
    each: gl.constexpr = x.block_type.nbytes + 2 * decays.block_type.nbytes
    once: gl.constexpr = b.block_type.nbytes + (0 if c is None else c.block_type.nbytes + cb.block_type.nbytes)
    stage = 0
    phase = 0
    gate_phase = 0
    for item in range(gl.load(offsets + gl.program_id(0)), gl.load(offsets + gl.program_id(0) + 1)):
        fields = items + item * _FIELDS
        start = gl.load(fields)
        length = gl.load(fields + 1)
        chunk = gl.load(fields + 2)
        head = gl.load(fields + 3)
        group = gl.load(fields + 4)
        for first in range(0, length, _Q):
            mbarrier.wait(empty.index(stage), phase ^ 1)
            ready = full.index(stage)
            mbarrier.expect(ready, once + _TOGETHER * each)
            if c is not None:
                load(c, [chunk * _Q, group * N], ready, c_tiles.index(stage))
                load(cb, [(chunk * GROUPS + group) * _Q, 0], ready, cb_tiles.index(stage))
            for h in gl.static_range(_TOGETHER):
                place = ((head + h) * n_chunks + chunk) * (2 * _Q)
                load(decays, [place], ready, decay_tiles.index((stage * _TOGETHER + h) * 2))
                load(decays, [place + _Q], ready, decay_tiles.index((stage * _TOGETHER + h) * 2 + 1))
                load(x, [start + first, (head + h) * P], ready, x_tiles.index(stage * _TOGETHER + h))
            load(b, [chunk * _Q, group * N], ready, b_tiles.index(stage))
            if gate is not None:
                for h in gl.static_range(_TOGETHER):
                    mbarrier.wait(gate_empty.index(h), gate_phase ^ 1)
                    mbarrier.expect(gate_full.index(h), gate.block_type.nbytes)
                    load(gate, [start + first, (head + h) * P], gate_full.index(h), gate_tiles.index(h))
                gate_phase ^= 1
            chunk += 1
            stage, phase = next_stage(stage, phase, STAGES)


@gluon.jit
def _consume(
    h: gl.constexpr, optional, outputs, states, flags, decays_ptr, work, tiles, bars, sizes,
    H: gl.constexpr, P: gl.constexpr, N: gl.constexpr, SILU: gl.constexpr,
):  # fmt: skip
    """The four warps of head `h`: the scan of the program's items, or, if y_ptr is None, their final states alone.

    optional: D, row scale, states before documents, states before segments. outputs: y, its squares, final states.
    states: descriptor of those before chunks, or None.
    flags: whether there are states before documents; whether final states are stored. work: `ssd_tables.items`, and
    each program's first. tiles: the ring's x, gate, B, C, C B^T and decays, and a tile for the state as an operand.
    bars: barriers of the ring, full and empty, and of the gates' tiles.
    """
    d_ptr, scale_ptr, initial_ptr, entries_ptr = optional
    y_ptr, squares_ptr, final_ptr = outputs
    items, offsets = work
    x_tiles, gate_tiles, b_tiles, c_tiles, cb_tiles, decay_tiles, state_tiles = tiles
    full, empty, gate_full, gate_empty = bars
    has_initial, has_final = flags
    n_tokens, n_chunks = sizes
    STAGES: gl.constexpr = b_tiles.shape[0]
    dtype: gl.constexpr = x_tiles.dtype
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, P, 16])
    wide: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, N, 16])
    rows: gl.constexpr = gl.SliceLayout(1, mma)
    columns: gl.constexpr = gl.SliceLayout(0, mma)
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])  # 16 bytes a thread, whole rows

    q = gl.arange(0, _Q, rows)
    q_flat = gl.arange(0, _Q, gl.SliceLayout(1, flat))
    p_flat = gl.arange(0, P, gl.SliceLayout(0, flat))
    matrix = gl.arange(0, P, gl.SliceLayout(1, wide))[:, None] * N + gl.arange(0, N, gl.SliceLayout(0, wide))[None, :]
    state_tile = state_tiles.index(h)
    stage = 0
    phase = 0
    gate_phase = 0
    for item in range(gl.load(offsets + gl.program_id(0)), gl.load(offsets + gl.program_id(0) + 1)):
        fields = items + item * _FIELDS
        start = gl.load(fields).to(gl.int64)
        length = gl.load(fields + 1)
        chunk = gl.load(fields + 2).to(gl.int64)
        head = gl.load(fields + 3) + h
        document = gl.load(fields + 5).to(gl.int64)
        entry = gl.load(fields + 6).to(gl.int64)
        state = gl.zeros([P, N], gl.float32, wide)
        if entry >= 0:
            state = gl.load(entries_ptr + (entry * H + head) * (P * N) + matrix)
        elif has_initial != 0:
            state = gl.load(initial_ptr + (document * H + head) * (P * N) + matrix)
        if d_ptr is not None:
            skip = gl.load(d_ptr + head).to(gl.float32)
        totals = decays_ptr + (head.to(gl.int64) * n_chunks + chunk) * (2 * _Q) + _Q - 1
        total = gl.load(totals)

        for first in range(0, length, _Q):
            if y_ptr is not None:
                if states is not None:
                    tma.store_wait(0)  # the tile's last copy has ended
                    barrier()
                state_tile.store(state.to(dtype))
                fence_async_shared()
                barrier()
                if states is not None:
                    store(states, [((gl.load(fields + 2) + first // _Q) * H + head) * P, 0], state_tile)
            mbarrier.wait(full.index(stage), phase)
            x_tile = x_tiles.index(stage * _TOGETHER + h)
            logs = decay_tiles.index((stage * _TOGETHER + h) * 2).load(rows)[:, None]
            shifted = decay_tiles.index((stage * _TOGETHER + h) * 2 + 1).load(columns)[None, :]
            if length - first < _Q:  # rows of the next document: not even a NaN of theirs may change this one
                past = (first + q_flat >= length)[:, None]
                x_tile.store(gl.where(past, gl.zeros([_Q, P], dtype, flat), x_tile.load(flat)))
                fence_async_shared()
                barrier()

            if y_ptr is not None:
                # The contribution of the state before the chunk: [Q, N] @ [N, P]
                y = gl.zeros([_Q, P], gl.float32, mma)
                y = warpgroup_mma(c_tiles.index(stage), state_tile.permute((1, 0)), y, use_acc=False, is_async=True)
                cb = cb_tiles.index(stage).load(mma).to(gl.float32)
                mixing = (cb * gl.exp2(gl.minimum(logs - shifted, _STEEP))).to(dtype)
                mixing = gl.convert_layout(mixing, gl.DotOperandLayout(0, mma, 2))
            weighted = (x_tile.permute((1, 0)).load(mma).to(gl.float32) * gl.exp2(total - shifted)).to(dtype)
            weighted = gl.convert_layout(weighted, gl.DotOperandLayout(0, wide, 2))
            state = state * gl.exp2(total)
            if first + _Q < length:
                total = gl.load(totals + 2 * (first + _Q))
            if y_ptr is not None:
                y = warpgroup_mma_wait(0, deps=(y,))
                y = y * gl.exp2(logs)
                # The contribution of the chunk's own inputs: [Q, Q] @ [Q, P]
                y = warpgroup_mma(mixing, x_tile, y, is_async=True)
            # Their contribution to the state: [P, Q] @ [Q, N]
            state = warpgroup_mma(weighted, b_tiles.index(stage), state, is_async=True)
            if y_ptr is not None:
                y = warpgroup_mma_wait(1, deps=(y,))
                if d_ptr is not None:
                    y += x_tile.load(mma).to(gl.float32) * skip
                inside = first + q < length
                if squares_ptr is not None:
                    mbarrier.wait(gate_full.index(h), gate_phase)
                    z = gate_tiles.index(h).load(mma).to(gl.float32)
                    fence_async_shared()  # the loads have ended when the tile is filled again
                    barrier()
                    mbarrier.arrive(gate_empty.index(h))
                    gate_phase ^= 1
                    if scale_ptr is not None:
                        z *= gl.load(scale_ptr + start + first + q, mask=inside, other=0.0)[:, None]
                    y *= silu(z) if SILU else z
                    squares = squares_ptr + head.to(gl.int64) * n_tokens + start + first + q
                    gl.store(squares, gl.sum(y * y, axis=1), mask=inside)
                x_tile.store(y.to(dtype))  # into whole rows
                y_rows = y_ptr + ((start + first + q_flat) * H + head)[:, None] * P + p_flat[None, :]
                gl.store(y_rows, x_tile.load(flat), mask=(first + q_flat < length)[:, None])
            state = warpgroup_mma_wait(0, deps=(state,))
            fence_async_shared()
            barrier()
            mbarrier.arrive(empty.index(stage))
            stage, phase = next_stage(stage, phase, STAGES)

        if has_final != 0:
            if gl.load(fields + 7) != 0:
                gl.store(final_ptr + (document * H + head) * (P * N) + matrix, state)
    if states is not None:
        tma.store_wait(0)


# Compiled once for all packs: sizes are not specialized, and whether there are states is decided at run time.
@gluon.jit(do_not_specialize=["n_tokens", "n_chunks", "has_initial", "has_final"])
def _scan_kernel(
    x, gate, b, c, cb, decays, items, offsets, decays_ptr, d_ptr, scale_ptr, initial_ptr, entries_ptr,
    y_ptr, squares_ptr, final_ptr, states, n_tokens, n_chunks, has_initial, has_final,
    H: gl.constexpr, GROUPS: gl.constexpr, P: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr, SILU: gl.constexpr,
):  # fmt: skip
    x_tiles = gl.allocate_shared_memory(x.dtype, [STAGES * _TOGETHER, _Q, P], x.layout)
    gate_tiles = gl.allocate_shared_memory(x.dtype, [_TOGETHER if gate is not None else 1, _Q, P], x.layout)
    b_tiles = gl.allocate_shared_memory(x.dtype, [STAGES, _Q, N], b.layout)
    c_tiles = gl.allocate_shared_memory(x.dtype, [STAGES if c is not None else 1, _Q, N], b.layout)
    cb_tiles = gl.allocate_shared_memory(x.dtype, [STAGES if c is not None else 1, _Q, _Q], x.layout)
    decay_tiles = gl.allocate_shared_memory(gl.float32, [STAGES * _TOGETHER * 2, _Q], decays.layout)
    state_tiles = gl.allocate_shared_memory(x.dtype, [_TOGETHER, P, N], b.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    gate_full = gl.allocate_shared_memory(gl.int64, [_TOGETHER, 1], mbarrier.MBarrierLayout())
    gate_empty = gl.allocate_shared_memory(gl.int64, [_TOGETHER, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=_TOGETHER)
    for i in gl.static_range(_TOGETHER):
        mbarrier.init(gate_full.index(i), count=1)
        mbarrier.init(gate_empty.index(i), count=1)
    fence_async_shared()
    tiles = (x_tiles, gate_tiles, b_tiles, c_tiles, cb_tiles, decay_tiles, state_tiles)
    bars = (full, empty, gate_full, gate_empty)
    sources = (x, gate, b, c, cb, decays)
    work = (items, offsets)
    optional = (d_ptr, scale_ptr, initial_ptr, entries_ptr)
    outputs = (y_ptr, squares_ptr, final_ptr)
    flags = (has_initial, has_final)
    sizes = (n_tokens, n_chunks)
    gl.warp_specialize(
        [
            (_consume, (0, optional, outputs, states, flags, decays_ptr, work, tiles, bars, sizes, H, P, N, SILU)),
            (_consume, (1, optional, outputs, states, flags, decays_ptr, work, tiles, bars, sizes, H, P, N, SILU)),
            (_produce, (sources, work, tiles, bars, n_chunks, GROUPS, P, N)),
        ],
        [4, 1],
        [_REGISTERS, _PRODUCER_REGISTERS],
    )


def supports(x: Tensor, b: Tensor, gate: Tensor | None) -> bool:
    """Whether `scan` takes these: 16-bit floats on Hopper, two heads a group or more, rows that TMA can copy."""
    heads, width = x.shape[1:]
    groups, states = b.shape[1:]
    given = [x] if gate is None else [x, gate]
    return (
        all(tiles_hopper.supports(m.flatten(1)) and m.stride(1) == width for m in given)
        and width == 64
        and states in (64, 128)
        and heads // groups % HEADS == 0
    )


def scan(
    x: Tensor, made: Prepared, entries: Tensor | None, pack: Pack, given: Optional, outputs: Outputs,
    cut: ssd_tables.Cut = ssd_tables.CUT,
) -> None:  # fmt: skip
    """As `ssd_triton.scan`, for inputs that `supports` accepts."""
    _launch(
        x, made, pack, f"segments {cut}", lambda lengths: ssd_tables.segments(lengths, cut), entries, given, outputs
    )


def shares(x: Tensor, made: Prepared, pack: Pack, cut: ssd_tables.Cut = ssd_tables.CUT) -> Tensor:
    """As `ssd_triton.shares`, for inputs that `supports` accepts: the final states of pieces, taken as documents."""
    heads, width = x.shape[1:]
    pieces = pack.table(f"ssd pieces {cut}", lambda lengths: ssd_tables.pieces(lengths, cut))
    out = torch.empty((len(pieces), heads, width, made.b.shape[2]), dtype=torch.float32, device=x.device)
    nothing, outputs = Optional(), Outputs(None, None, out, None)
    _launch(x, made, pack, f"pieces {cut}", lambda lengths: ssd_tables.pieces(lengths, cut), None, nothing, outputs)
    return out


def _launch(
    x: Tensor, made: Prepared, pack: Pack, name: str, parts: Parts, entries: Tensor | None, given: Optional,
    outputs: Outputs,
) -> None:  # fmt: skip
    n_tokens, heads, width = x.shape
    groups, states = made.b.shape[1:]
    n_chunks = made.decays.shape[1]
    programs = tiles_hopper.device(x.device.index).multi_processor_count
    items, offsets = ssd_tables.items_of(pack, name, parts, heads, groups, HEADS, programs)
    states_alone = outputs.y is None
    _scan_kernel[(programs,)](
        tiles_hopper.tiles(x.flatten(1), [CHUNK, width]),
        None if given.gate is None else tiles_hopper.tiles(given.gate.flatten(1), [CHUNK, width]),
        tiles_hopper.tiles(made.b.flatten(1), [CHUNK, states]),
        None if states_alone else tiles_hopper.tiles(made.c.flatten(1), [CHUNK, states]),
        None if states_alone else tiles_hopper.tiles(made.cb.flatten(0, 2), [CHUNK, CHUNK]),
        TensorDescriptor.from_tensor(made.decays.flatten(), [CHUNK], _DECAYS),
        items, offsets, made.decays, given.d, given.scale, *states_of(made, given, entries),
        outputs.y, outputs.squares, made.decays if outputs.final_state is None else outputs.final_state,
        None if outputs.states is None else tiles_hopper.tiles(outputs.states.flatten(0, 2), [width, states]),
        n_tokens, n_chunks, int(given.initial_state is not None), int(outputs.final_state is not None),
        H=heads, GROUPS=groups, P=width, N=states, STAGES=_STATES_STAGES if states_alone else _STAGES, SILU=given.silu,
        num_warps=4,
    )  # fmt: skip
