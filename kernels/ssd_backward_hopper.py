"""The gradients inside the SSD's chunks on Hopper (compute capability 9.x) in Gluon; see `kernels.ssd_backward_triton`.

One program a multiprocessor goes through chunks, and in each through the heads of its group. A producer warp copies B,
C and C Bᵀ once a chunk, and of each head x, the gradient of y, the state before the chunk, the adjoint of that after it
and the decays into a ring of shared memory by TMA. Four warps take the rows of the triangular product and the gradient
of C, four others its columns and the gradients of x and B. What crosses between them is the gradient of C Bᵀ, once a
chunk.
"""

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kernels import tiles_hopper
from kernels.ssd_tables import CHUNK
from kernels.ssd_triton import STEEP, Prepared
from kernels.tiles_hopper import barrier, load, next_stage

_STAGES = 3  # 48 KiB each at state 128, beside 60 KiB
_REGISTERS, _PRODUCER_REGISTERS = (gl.constexpr(count) for count in tiles_hopper.REGISTERS)
_Q, _STEEP, _SUMS = (gl.constexpr(value) for value in (CHUNK, STEEP, 5))
_DECAYS = gl.NVMMASharedLayout(0, 32, 1)


@gluon.jit
def _produce(sources, chunks_ptr, tiles, bars, sizes, H: gl.constexpr, GROUPS: gl.constexpr, N: gl.constexpr):
    """The producer warp. sources: descriptors of x, gradient, states, adjoints, decays; of B, C and C B^T."""
    x, grad, before, after, decays, b, c, cb = sources
    x_tiles, grad_tiles, before_tiles, after_tiles, decay_tiles, once_tiles, _, _ = tiles
    b_tile, c_tile, cb_tile = once_tiles
    full, empty, once_full, once_empty, _, _ = bars
    n_tasks, n_chunks = sizes
    STAGES: gl.constexpr = x_tiles.shape[0]
    SHARED: gl.constexpr = H // GROUPS
    each: gl.constexpr = 2 * (x.block_type.nbytes + before.block_type.nbytes + decays.block_type.nbytes)
    once: gl.constexpr = 2 * b.block_type.nbytes + cb.block_type.nbytes
    stage = 0
    phase = 0
    once_phase = 0
    for task in range(gl.program_id(0), n_tasks, gl.num_programs(0)):
        chunk = task // GROUPS
        group = task % GROUPS
        start = gl.load(chunks_ptr + 2 * chunk)
        mbarrier.wait(once_empty.index(0), once_phase ^ 1)
        mbarrier.expect(once_full.index(0), once)
        load(cb, [task * _Q, 0], once_full.index(0), cb_tile.index(0))
        load(b, [chunk * _Q, group * N], once_full.index(0), b_tile.index(0))
        load(c, [chunk * _Q, group * N], once_full.index(0), c_tile.index(0))
        once_phase ^= 1
        for i in range(SHARED):
            head = group * SHARED + i
            mbarrier.wait(empty.index(stage), phase ^ 1)
            ready = full.index(stage)
            mbarrier.expect(ready, each)
            place = (head * n_chunks + chunk) * (2 * _Q)
            load(decays, [place], ready, decay_tiles.index(stage * 2))
            load(decays, [place + _Q], ready, decay_tiles.index(stage * 2 + 1))
            load(grad, [start, head * _Q], ready, grad_tiles.index(stage))
            load(x, [start, head * _Q], ready, x_tiles.index(stage))
            load(before, [(chunk * H + head) * _Q, 0], ready, before_tiles.index(stage))
            load(after, [(chunk * H + head) * _Q, 0], ready, after_tiles.index(stage))
            stage, phase = next_stage(stage, phase, STAGES)


@gluon.jit
def _clean(tile, length, clean, phase, flat: gl.constexpr):
    """Zeros the rows of the next document, which may hold NaN, and waits until the other group has in its tile."""
    past = (gl.arange(0, _Q, gl.SliceLayout(1, flat)) >= length)[:, None]
    tile.store(gl.where(past, gl.zeros([_Q, _Q], tile.dtype, flat), tile.load(flat)))
    fence_async_shared()
    barrier()
    mbarrier.arrive(clean)
    mbarrier.wait(clean, phase)


@gluon.jit
def _release(bar):
    """For the producer: the group has read what it waits for."""
    fence_async_shared()
    barrier()
    mbarrier.arrive(bar)


@gluon.jit
def _by_row(
    grad_c_ptr, sums_ptr, chunks_ptr, tiles, bars, sizes, stride_out,
    H: gl.constexpr, GROUPS: gl.constexpr, N: gl.constexpr,
):  # fmt: skip
    """Four warps: the gradients of C and of C B^T, and the sums over rows and columns of the triangular product."""
    x_tiles, grad_tiles, before_tiles, _, decay_tiles, once_tiles, pairs_tile, _ = tiles
    b_tile, c_tile, cb_tile = once_tiles
    full, empty, once_full, once_empty, clean, pairs_full = bars
    n_tasks, n_chunks = sizes
    STAGES: gl.constexpr = x_tiles.shape[0]
    SHARED: gl.constexpr = H // GROUPS
    dtype: gl.constexpr = x_tiles.dtype
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _Q, 16])
    wide: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, N, 16])
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])
    rows: gl.constexpr = gl.SliceLayout(1, mma)
    columns: gl.constexpr = gl.SliceLayout(0, mma)
    wide_rows: gl.constexpr = gl.SliceLayout(1, wide)
    q = gl.arange(0, _Q, rows)
    q_columns = gl.arange(0, _Q, columns)
    q_wide = gl.arange(0, _Q, wide_rows)
    stage = 0
    phase = 0
    once_phase = 0
    clean_phase = 0
    for task in range(gl.program_id(0), n_tasks, gl.num_programs(0)):
        chunk = task // GROUPS
        group = task % GROUPS
        start = gl.load(chunks_ptr + 2 * chunk).to(gl.int64)
        length = gl.load(chunks_ptr + 2 * chunk + 1)
        mbarrier.wait(once_full.index(0), once_phase)
        once_phase ^= 1
        grad_cb = gl.zeros([_Q, _Q], gl.float32, mma)
        grad_c = gl.zeros([_Q, N], gl.float32, wide)
        for i in range(SHARED):
            mbarrier.wait(full.index(stage), phase)
            grad_tile = grad_tiles.index(stage)
            if length < _Q:
                _clean(grad_tile, length, clean.index(0), clean_phase, flat)
                clean_phase ^= 1
            pairs = gl.zeros([_Q, _Q], gl.float32, mma)
            pairs = warpgroup_mma(grad_tile, x_tiles.index(stage).permute((1, 0)), pairs, use_acc=False, is_async=True)
            before = gl.zeros([_Q, N], gl.float32, wide)
            before = warpgroup_mma(grad_tile, before_tiles.index(stage), before, use_acc=False, is_async=True)
            logs = decay_tiles.index(stage * 2).load(rows)[:, None]
            shifted = decay_tiles.index(stage * 2 + 1).load(columns)[None, :]
            decay = gl.exp2(gl.minimum(logs - shifted, _STEEP))
            decay = gl.where(q[:, None] >= q_columns[None, :], decay, 0.0)
            from_start = gl.exp2(decay_tiles.index(stage * 2).load(wide_rows))
            sums = sums_ptr + ((group * SHARED + i).to(gl.int64) * n_chunks + chunk) * (_SUMS * _Q)
            pairs = warpgroup_mma_wait(1, deps=(pairs,))
            gl.store(sums + 2 * _Q + q, gl.sum(gl.where(q[:, None] == q_columns[None, :], pairs, 0.0), axis=1))
            pairs *= decay
            grad_cb += pairs
            pairs *= cb_tile.index(0).load(mma).to(gl.float32)
            gl.store(sums + _Q + q_columns, gl.sum(pairs, axis=0))
            row = gl.sum(pairs, axis=1)
            before = warpgroup_mma_wait(0, deps=(before,))
            _release(empty.index(stage))
            before *= from_start[:, None]
            grad_c += before
            carried = gl.sum(before * c_tile.index(0).load(wide).to(gl.float32), axis=1)
            gl.store(sums + q, row + gl.convert_layout(carried, rows))
            stage, phase = next_stage(stage, phase, STAGES)
        narrow = grad_cb.to(dtype)
        pairs_tile.index(0).store(narrow)
        _release(pairs_full.index(0))
        narrow = gl.convert_layout(narrow, gl.DotOperandLayout(0, wide, 2))
        grad_c = warpgroup_mma(narrow, b_tile.index(0), grad_c, is_async=True)  # [Qi, Qj] @ [Qj, N]
        grad_c = warpgroup_mma_wait(0, deps=(grad_c,))
        _release(once_empty.index(0))
        n = gl.arange(0, N, gl.SliceLayout(0, wide))
        out = grad_c_ptr + (start + q_wide)[:, None] * stride_out + group * N + n[None, :]
        gl.store(out, grad_c.to(dtype), mask=(q_wide < length)[:, None])


@gluon.jit
def _by_column(
    grad_x_ptr, grad_b_ptr, sums_ptr, decays_ptr, d_ptr, chunks_ptr, tiles, bars, sizes, stride_out,
    H: gl.constexpr, GROUPS: gl.constexpr, N: gl.constexpr,
):  # fmt: skip
    """Four warps: the gradients of x and B, and the sums over what passes into the state and through it."""
    x_tiles, grad_tiles, before_tiles, after_tiles, decay_tiles, once_tiles, pairs_tile, out_tile = tiles
    b_tile, c_tile, cb_tile = once_tiles
    full, empty, once_full, once_empty, clean, pairs_full = bars
    n_tasks, n_chunks = sizes
    STAGES: gl.constexpr = x_tiles.shape[0]
    SHARED: gl.constexpr = H // GROUPS
    dtype: gl.constexpr = x_tiles.dtype
    mma: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _Q, 16])
    wide: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, N, 16])
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0])  # 16 bytes a thread, whole rows
    rows: gl.constexpr = gl.SliceLayout(1, mma)
    columns: gl.constexpr = gl.SliceLayout(0, mma)
    wide_rows: gl.constexpr = gl.SliceLayout(1, wide)
    q = gl.arange(0, _Q, rows)
    q_columns = gl.arange(0, _Q, columns)
    q_wide = gl.arange(0, _Q, wide_rows)
    q_flat = gl.arange(0, _Q, gl.SliceLayout(1, flat))
    p_flat = gl.arange(0, _Q, gl.SliceLayout(0, flat))
    stage = 0
    phase = 0
    once_phase = 0
    clean_phase = 0
    for task in range(gl.program_id(0), n_tasks, gl.num_programs(0)):
        chunk = task // GROUPS
        group = task % GROUPS
        start = gl.load(chunks_ptr + 2 * chunk).to(gl.int64)
        length = gl.load(chunks_ptr + 2 * chunk + 1)
        mbarrier.wait(once_full.index(0), once_phase)
        grad_b = gl.zeros([_Q, N], gl.float32, wide)
        for i in range(SHARED):
            head = group * SHARED + i
            place = head.to(gl.int64) * n_chunks + chunk
            total = gl.load(decays_ptr + place * (2 * _Q) + _Q - 1)
            mbarrier.wait(full.index(stage), phase)
            x_tile = x_tiles.index(stage)
            grad_tile = grad_tiles.index(stage)
            if length < _Q:
                _clean(x_tile, length, clean.index(0), clean_phase, flat)
                clean_phase ^= 1
            # From the chunk to the state after it: [Q, N] @ [N, P]
            grad_x = gl.zeros([_Q, _Q], gl.float32, mma)
            adjoint = after_tiles.index(stage)
            grad_x = warpgroup_mma(b_tile.index(0), adjoint.permute((1, 0)), grad_x, use_acc=False, is_async=True)
            logs = decay_tiles.index(stage * 2).load(columns)[None, :]
            shifted = decay_tiles.index(stage * 2 + 1).load(rows)
            to_end = gl.exp2(total - shifted)[:, None]
            mixing = cb_tile.index(0).permute((1, 0)).load(mma).to(gl.float32)
            mixing = (mixing * gl.exp2(gl.minimum(logs - shifted[:, None], _STEEP))).to(dtype)
            mixing = gl.convert_layout(mixing, gl.DotOperandLayout(0, mma, 2))
            x = x_tile.load(mma).to(gl.float32)
            weighted = gl.convert_layout((x * to_end).to(dtype), gl.DotOperandLayout(0, wide, 2))
            grad_x = warpgroup_mma_wait(0, deps=(grad_x,))
            grad_x *= to_end
            sums = sums_ptr + place * (_SUMS * _Q)
            gl.store(sums + 3 * _Q + q, gl.sum(grad_x * x, axis=1))
            # Inside the chunk, j to i, transposed: [Qj, Qi] @ [Qi, P]
            grad_x = warpgroup_mma(mixing, grad_tile, grad_x, is_async=True)
            grad_b = warpgroup_mma(weighted, adjoint, grad_b, is_async=True)  # [Q, P] @ [P, N]
            # What is kept of the state: the diagonal of [P, N] @ [N, P].
            kept = gl.zeros([_Q, _Q], gl.float32, mma)
            kept = warpgroup_mma(before_tiles.index(stage), adjoint.permute((1, 0)), kept, use_acc=False, is_async=True)
            grad_x = warpgroup_mma_wait(2, deps=(grad_x,))
            if d_ptr is not None:
                grad_x += grad_tile.load(mma).to(gl.float32) * gl.load(d_ptr + head).to(gl.float32)
            out_tile.index(0).store(grad_x.to(dtype))  # into whole rows
            out = grad_x_ptr + (start + q_flat)[:, None] * stride_out + head * _Q + p_flat[None, :]
            gl.store(out, out_tile.index(0).load(flat), mask=(q_flat < length)[:, None])
            grad_b = warpgroup_mma_wait(1, deps=(grad_b,))
            kept = warpgroup_mma_wait(0, deps=(kept,))
            _release(empty.index(stage))
            kept = gl.sum(gl.where(q[:, None] == q_columns[None, :], kept, 0.0), axis=1)
            gl.store(sums + 4 * _Q + q, kept * gl.exp2(total))
            stage, phase = next_stage(stage, phase, STAGES)
        mbarrier.wait(pairs_full.index(0), once_phase)
        once_phase ^= 1
        pairs = gl.convert_layout(pairs_tile.index(0).permute((1, 0)).load(mma), gl.DotOperandLayout(0, wide, 2))
        grad_b = warpgroup_mma(pairs, c_tile.index(0), grad_b, is_async=True)  # [Qj, Qi] @ [Qi, N]
        grad_b = warpgroup_mma_wait(0, deps=(grad_b,))
        _release(once_empty.index(0))
        n = gl.arange(0, N, gl.SliceLayout(0, wide))
        out = grad_b_ptr + (start + q_wide)[:, None] * stride_out + group * N + n[None, :]
        gl.store(out, grad_b.to(dtype), mask=(q_wide < length)[:, None])


@gluon.jit(do_not_specialize=["n_tasks", "n_chunks"])
def _gradients_kernel(
    x, grad, before, after, decays, b, c, cb, chunks_ptr, decays_ptr, d_ptr,
    grad_x_ptr, grad_b_ptr, grad_c_ptr, sums_ptr, n_tasks, n_chunks, stride_out,
    H: gl.constexpr, GROUPS: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    x_tiles = gl.allocate_shared_memory(x.dtype, [STAGES, _Q, _Q], x.layout)
    grad_tiles = gl.allocate_shared_memory(x.dtype, [STAGES, _Q, _Q], x.layout)
    before_tiles = gl.allocate_shared_memory(x.dtype, [STAGES, _Q, N], b.layout)
    after_tiles = gl.allocate_shared_memory(x.dtype, [STAGES, _Q, N], b.layout)
    decay_tiles = gl.allocate_shared_memory(gl.float32, [STAGES * 2, _Q], decays.layout)
    b_tile = gl.allocate_shared_memory(x.dtype, [1, _Q, N], b.layout)
    c_tile = gl.allocate_shared_memory(x.dtype, [1, _Q, N], b.layout)
    cb_tile = gl.allocate_shared_memory(x.dtype, [1, _Q, _Q], x.layout)
    pairs_tile = gl.allocate_shared_memory(x.dtype, [1, _Q, _Q], x.layout)
    out_tile = gl.allocate_shared_memory(x.dtype, [1, _Q, _Q], x.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    once_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    once_empty = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    clean = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    pairs_full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=2)
    mbarrier.init(once_full.index(0), count=1)
    mbarrier.init(once_empty.index(0), count=2)
    mbarrier.init(clean.index(0), count=2)
    mbarrier.init(pairs_full.index(0), count=1)
    fence_async_shared()
    once_tiles = (b_tile, c_tile, cb_tile)
    tiles = (x_tiles, grad_tiles, before_tiles, after_tiles, decay_tiles, once_tiles, pairs_tile, out_tile)
    bars = (full, empty, once_full, once_empty, clean, pairs_full)
    sources = (x, grad, before, after, decays, b, c, cb)
    sizes = (n_tasks, n_chunks)
    gl.warp_specialize(
        [
            (_by_row, (grad_c_ptr, sums_ptr, chunks_ptr, tiles, bars, sizes, stride_out, H, GROUPS, N)),
            (
                _by_column,
                (
                    grad_x_ptr, grad_b_ptr, sums_ptr, decays_ptr, d_ptr, chunks_ptr, tiles, bars, sizes, stride_out,
                    H, GROUPS, N,
                ),
            ),
            (_produce, (sources, chunks_ptr, tiles, bars, sizes, H, GROUPS, N)),
        ],
        [4, 1],
        [_REGISTERS, _PRODUCER_REGISTERS],
    )  # fmt: skip


def supports(x: Tensor, grad: Tensor, b: Tensor) -> bool:
    """Whether `within_chunks` takes these: 16-bit floats on Hopper, rows that TMA can copy."""
    width, states = x.shape[2], b.shape[2]
    return (
        all(tiles_hopper.supports(m.flatten(1)) and m.stride(1) == width for m in (x, grad))
        and width == CHUNK
        and states in (64, 128)
    )


def within_chunks(
    x: Tensor, grad: Tensor, made: Prepared, d: Tensor | None, chunks: Tensor, before: Tensor, adjoints: Tensor,
    rows: Tensor, sums: Tensor,
) -> None:  # fmt: skip
    """As `ssd_backward_triton.within_chunks`, for inputs that `supports` accepts."""
    heads, width = x.shape[1:]
    groups, states = made.b.shape[1:]
    grad_x, grad_b, grad_c = rows.split((heads * width, groups * states, groups * states), dim=1)
    n_chunks = len(chunks)
    tasks = n_chunks * groups
    tiles = tiles_hopper.tiles
    _gradients_kernel[(min(tasks, tiles_hopper.device(x.device.index).multi_processor_count),)](
        tiles(x.flatten(1), [CHUNK, width]),
        tiles(grad.flatten(1), [CHUNK, width]),
        tiles(before.flatten(0, 2), [CHUNK, states]),
        tiles(adjoints.flatten(0, 2), [CHUNK, states]),
        TensorDescriptor.from_tensor(made.decays.flatten(), [CHUNK], _DECAYS),
        tiles(made.b.flatten(1), [CHUNK, states]),
        tiles(made.c.flatten(1), [CHUNK, states]),
        tiles(made.cb.flatten(0, 2), [CHUNK, CHUNK]),
        chunks, made.decays, d, grad_x, grad_b, grad_c, sums, tasks, n_chunks, rows.stride(0),
        H=heads, GROUPS=groups, N=states, STAGES=_STAGES, num_warps=4, maxnreg=tiles_hopper.LAUNCH_REGISTERS,
    )  # fmt: skip
