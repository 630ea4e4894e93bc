"""Matrix products on Hopper (compute capability 9.x) with residual sum and sums of squares in the kernel, in Gluon."""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from kernels import tiles_hopper
from kernels.tiles_hopper import (
    COLUMNS,
    ROWS,
    barrier,
    fill,
    load,
    make_ring,
    multiply,
    next_stage,
    place,
    silu,
    store,
)

SLIM = 64  # columns of an output tile, of a residual tile, and of a product of few columns
_ROWS, _COLUMNS, _GROUPS, _SLIM = (gl.constexpr(value) for value in (ROWS, COLUMNS, tiles_hopper.GROUPS, SLIM))
_REGISTERS, _PRODUCER_REGISTERS = (gl.constexpr(count) for count in tiles_hopper.REGISTERS)
_TOGETHER = gl.constexpr(1)  # blocks of rows: the columns stay in the L2 cache
_STAGES = 4  # 48 KiB each, beside 32 KiB of output tiles


@gluon.jit
def _residual_tiles(tile, residual):
    """A stage's tile of columns as memory for tiles of the residual, one below the other: [256, 64]."""
    if tile.dtype == residual.dtype:
        tiles = tile
    else:
        tiles = tile._reinterpret(residual.dtype, [_COLUMNS, _SLIM], residual.layout)
    return tiles


@gluon.jit
def _scaled(x, column, row_scale, column_scale_ptr, n_scales, layout: gl.constexpr):
    """x [64, 64] of a product of quantized factors, times the factors of its rows and of its columns."""
    columns = column + gl.arange(0, _SLIM, gl.SliceLayout(0, layout))
    column_scale = gl.load(column_scale_ptr + columns, mask=columns < n_scales, other=0.0)
    return x * row_scale[:, None] * column_scale[None, :]


@gluon.jit
def _produce(rows, columns, slim, residual, ring, sizes, D: gl.constexpr):
    """The producer warp: copies the factors' and the residual's tiles of each task into the ring."""
    n_blocks, n_parts, _n_rows, _n_scales = sizes
    _row_tiles, column_tiles, full, empty = ring
    STAGES: gl.constexpr = column_tiles.shape[0]
    stage = 0
    phase = 0
    for task in range(gl.program_id(0), n_blocks * n_parts, gl.num_programs(0)):
        block, part = place(task, n_blocks, n_parts, _TOGETHER)
        stage, phase = fill(rows, columns, block, part * _COLUMNS, ring, stage, phase, D)
        if residual is not None:  # after the factors, in the same ring: two tiles of each group at a time
            for half in gl.static_range(2):
                mbarrier.wait(empty.index(stage), phase ^ 1)
                mbarrier.expect(full.index(stage), 2 * _GROUPS * residual.block_type.nbytes)
                tiles = _residual_tiles(column_tiles.index(stage), residual)
                for i in gl.static_range(2 * _GROUPS):
                    corner = [(block * _GROUPS + i // 2) * _ROWS, part * _COLUMNS + (2 * half + i % 2) * _SLIM]
                    load(residual, corner, full.index(stage), tiles.slice(i * _SLIM, _SLIM))
                stage, phase = next_stage(stage, phase, STAGES)
        if slim is not None:
            if part == 0:
                stage, phase = fill(rows, slim, block, n_parts * _COLUMNS, ring, stage, phase, D)


@gluon.jit
def _halves(x):
    return x.reshape([x.shape[0], 2, x.shape[1] // 2]).permute((0, 2, 1)).split()


@gluon.jit
def _write(x, out, tile, row, column):
    """Writes x [64, 64] through one of two tiles in shared memory, after that tile's last copy has ended."""
    tma.store_wait(1)
    barrier()
    tile.store(x)
    fence_async_shared()
    barrier()
    store(out, [row, column], tile)


@gluon.jit
def _consume(
    group: gl.constexpr, ring, out, slim, residual, out_tiles, scales, squares_ptr, sizes, D: gl.constexpr,
    GATE: gl.constexpr,
):  # fmt: skip
    """One group of four warps: the products of its 64 rows of each task, and what is done with them."""
    n_blocks, n_parts, n_rows, n_scales = sizes
    scale_ptr, column_scale_ptr = scales
    _row_tiles, column_tiles, full, empty = ring
    STAGES: gl.constexpr = column_tiles.shape[0]
    STEP: gl.constexpr = 256 // column_tiles.dtype.primitive_bitwidth  # channels of an instruction
    wide: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _COLUMNS, STEP]
    )
    narrow: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _SLIM, STEP]
    )
    x = gl.zeros([_ROWS, _COLUMNS], gl.float32, wide)
    stage = 0
    phase = 0
    turn = 0  # which of the group's two output tiles is next
    for task in range(gl.program_id(0), n_blocks * n_parts, gl.num_programs(0)):
        block, part = place(task, n_blocks, n_parts, _TOGETHER)
        first = (block * _GROUPS + group) * _ROWS
        rows = first + gl.arange(0, _ROWS, gl.SliceLayout(1, narrow))
        if scale_ptr is not None:
            scale = gl.load(scale_ptr + rows, mask=rows < n_rows, other=0.0)
        if residual is not None:
            squares = gl.zeros([_ROWS], gl.float32, gl.SliceLayout(1, narrow))
        x, stage, phase = multiply(x, group, ring, stage, phase, D)
        left, right = _halves(x)
        halves = (left, right)
        for half in gl.static_range(2):
            if residual is not None:
                mbarrier.wait(full.index(stage), phase)
            one, other = _halves(halves[half])
            quarters = (one, other)
            for i in gl.static_range(2):
                quarter = gl.convert_layout(quarters[i], narrow)
                column = part * _COLUMNS + (2 * half + i) * _SLIM
                if column_scale_ptr is not None:
                    quarter = _scaled(quarter, column, scale, column_scale_ptr, n_scales, narrow)
                elif scale_ptr is not None:
                    quarter *= scale[:, None]
                if GATE > 0:
                    if column < GATE:
                        quarter = silu(quarter)
                if residual is not None:
                    tiles = _residual_tiles(column_tiles.index(stage), residual)
                    before = tiles.slice((2 * group + i) * _SLIM, _SLIM).load(narrow).to(gl.float32)
                    quarter = before + quarter
                rounded = quarter.to(out.dtype)
                if residual is not None:
                    quarter = rounded.to(gl.float32)
                    squares += gl.sum(quarter * quarter, axis=1)
                _write(rounded, out, out_tiles.index(group * 2 + (turn ^ i)), first, column)
            if residual is not None:
                mbarrier.arrive(empty.index(stage))
                stage, phase = next_stage(stage, phase, STAGES)
        if residual is not None:
            gl.store(squares_ptr + part.to(gl.int64) * n_rows + rows, squares, mask=rows < n_rows)
        if slim is not None:
            if part == 0:
                y = gl.zeros([_ROWS, _SLIM], gl.float32, narrow)
                y, stage, phase = multiply(y, group, ring, stage, phase, D)
                if column_scale_ptr is not None:
                    y = _scaled(y, n_parts * _COLUMNS, scale, column_scale_ptr, n_scales, narrow)
                elif scale_ptr is not None:
                    y *= scale[:, None]
                _write(y.to(out.dtype), out, out_tiles.index(group * 2 + turn), first, n_parts * _COLUMNS)
                turn ^= 1
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["n_rows", "n_blocks"])
def _linear_kernel(
    rows, columns, slim, out, residual, scale_ptr, column_scale_ptr, squares_ptr, n_rows, n_blocks, n_parts, n_scales,
    D: gl.constexpr, STAGES: gl.constexpr, GATE: gl.constexpr,
):  # fmt: skip
    ring = make_ring(rows, columns, STAGES)
    out_tiles = gl.allocate_shared_memory(out.dtype, [_GROUPS * 2, _ROWS, _SLIM], out.layout)
    sizes = (n_blocks, n_parts, n_rows, n_scales)
    scales = (scale_ptr, column_scale_ptr)
    gl.warp_specialize(
        [
            (_consume, (0, ring, out, slim, residual, out_tiles, scales, squares_ptr, sizes, D, GATE)),
            (_consume, (1, ring, out, slim, residual, out_tiles, scales, squares_ptr, sizes, D, GATE)),
            (_produce, (rows, columns, slim, residual, ring, sizes, D)),
        ],
        [4, 1],
        [_REGISTERS, _PRODUCER_REGISTERS],
    )


def linear(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    weight_scale: Tensor | None = None,
    gate: int = 0,
) -> Tensor:
    """scale · (x @ weight.T) into `out`, or residual + scale · (x @ weight.T) with the sums of its squares.

    For matrices that `tiles_hopper.supports`. Columns of `out` beyond the rows of `weight` become zeros. The first
    `gate` columns, a multiple of 64, become their SiLU. The squares are [parts, N] float32, each part the sum over 256
    columns. With `weight_scale`, of matrices that `tiles_hopper.supports8`, `scale` and it are the factors of the rows
    of both; `out` and `residual` have 16 bits.
    """
    n_rows, width = x.shape
    channels = tiles_hopper.channels(x)
    last = len(weight) % COLUMNS
    # The last few columns: a product of 64 takes less time than one of 256.
    has_slim = residual is None and 0 < last <= SLIM and len(weight) > COLUMNS
    work = tiles_hopper.divide(x, len(weight) - last if has_slim else len(weight), COLUMNS)
    squares = torch.empty((work.parts, n_rows) if residual is not None else (0,), dtype=torch.float32, device=x.device)
    _linear_kernel[(work.programs,)](
        tiles_hopper.tiles(x, [ROWS, channels]), tiles_hopper.tiles(weight, [COLUMNS, channels]),
        tiles_hopper.tiles(weight, [SLIM, channels]) if has_slim else None, tiles_hopper.tiles(out, [ROWS, SLIM]),
        None if residual is None else tiles_hopper.tiles(residual, [ROWS, SLIM]), scale, weight_scale, squares,
        n_rows, work.blocks, work.parts, len(weight), width, _STAGES, gate,
        num_warps=4, maxnreg=tiles_hopper.LAUNCH_REGISTERS,
    )  # fmt: skip
    return squares
