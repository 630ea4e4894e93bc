"""Matrix products on Hopper (compute capability 9.x) with what comes after them in the same kernel, in Gluon."""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma

from kernels import tiles_hopper
from kernels.tiles_hopper import CHANNELS, COLUMNS, ROWS, barrier, load, make_ring, multiply, place, produce, store

_ROWS, _COLUMNS, _GROUPS = gl.constexpr(ROWS), gl.constexpr(COLUMNS), gl.constexpr(tiles_hopper.GROUPS)
_REGISTERS, _PRODUCER_REGISTERS = (gl.constexpr(count) for count in tiles_hopper.REGISTERS)
_STAGES = 3  # 48 KiB each, beside 64 KiB of tiles on their way out


@gluon.jit
def _consume(
    group: gl.constexpr, ring, out, residual, out_tiles, arrived, scale_ptr, squares_ptr, n_rows, sizes,
    D: gl.constexpr, ADDS: gl.constexpr,
):  # fmt: skip
    n_blocks, n_parts, _n_columns = sizes
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _COLUMNS, 16]
    )
    row_layout: gl.constexpr = gl.SliceLayout(1, layout)
    x = gl.zeros([_ROWS, _COLUMNS], gl.float32, layout)
    tile = out_tiles.index(group)
    here = arrived.index(group)
    stage = 0
    phase = 0
    turn = 0
    for task in range(gl.program_id(0), n_blocks * n_parts, gl.num_programs(0)):
        block, part = place(task, n_blocks, n_parts)
        first = (block * _GROUPS + group) * _ROWS
        if ADDS:  # the tile's old contents are on their way out; the residual comes in under the product
            tma.store_wait(0)
            barrier()
            mbarrier.expect(here, residual.block_type.nbytes)
            load(residual, [first, part * _COLUMNS], here, tile)
        x, stage, phase = multiply(x, group, ring, stage, phase, D)
        if ADDS:
            rows = first + gl.arange(0, _ROWS, row_layout)
            inside = rows < n_rows
            scale = gl.load(scale_ptr + rows, mask=inside, other=0.0)
            mbarrier.wait(here, turn)
            turn ^= 1
            rounded = (tile.load(layout).to(gl.float32) + x * scale[:, None]).to(out.dtype)
            wide = rounded.to(gl.float32)
            gl.store(squares_ptr + part.to(gl.int64) * n_rows + rows, gl.sum(wide * wide, axis=1), mask=inside)
        else:
            rounded = x.to(out.dtype)
            tma.store_wait(0)
            barrier()
        tile.store(rounded)
        fence_async_shared()
        barrier()
        store(out, [first, part * _COLUMNS], tile)
    tma.store_wait(0)


@gluon.jit(do_not_specialize=["n_rows", "n_blocks"])
def _linear_kernel(
    rows, columns, out, residual, scale_ptr, squares_ptr, n_rows, n_blocks, n_parts, n_columns,
    D: gl.constexpr, ADDS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    ring = make_ring(rows, columns, STAGES)
    out_tiles = gl.allocate_shared_memory(out.dtype, [_GROUPS, _ROWS, _COLUMNS], out.layout)
    arrived = gl.allocate_shared_memory(gl.int64, [_GROUPS, 1], mbarrier.MBarrierLayout())
    for group in gl.static_range(_GROUPS):
        mbarrier.init(arrived.index(group), count=1)
    fence_async_shared()
    sizes = (n_blocks, n_parts, n_columns)
    gl.warp_specialize(
        [
            (_consume, (0, ring, out, residual, out_tiles, arrived, scale_ptr, squares_ptr, n_rows, sizes, D, ADDS)),
            (_consume, (1, ring, out, residual, out_tiles, arrived, scale_ptr, squares_ptr, n_rows, sizes, D, ADDS)),
            (produce, (rows, columns, ring, sizes, _COLUMNS, D)),
        ],
        [4, 1],
        [_REGISTERS, _PRODUCER_REGISTERS],
    )


def linear(
    x: Tensor, weight: Tensor, out: Tensor, residual: Tensor | None = None, scale: Tensor | None = None
) -> Tensor:
    """x @ weight.T into `out`, or residual + scale · (x @ weight.T) with the sums of its squares.

    Of matrices that `tiles_hopper.supports`. The squares are [parts, N] float32, each part the sum over 256 columns.
    """
    n_rows, width = x.shape
    work = tiles_hopper.divide(x, len(weight), COLUMNS)
    squares = torch.empty((work.parts, n_rows) if residual is not None else (0,), dtype=torch.float32, device=x.device)
    block = tiles_hopper.tiles(out, [ROWS, COLUMNS])
    _linear_kernel[(work.programs,)](
        tiles_hopper.tiles(x, [ROWS, CHANNELS]), tiles_hopper.tiles(weight, [COLUMNS, CHANNELS]), block,
        block if residual is None else tiles_hopper.tiles(residual, [ROWS, COLUMNS]), scale, squares,
        n_rows, work.blocks, work.parts, len(weight),
        width, residual is not None, _STAGES,
        num_warps=4, maxnreg=tiles_hopper.LAUNCH_REGISTERS,
    )  # fmt: skip
    return squares
