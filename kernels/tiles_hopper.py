"""The matrix product of Hopper's kernels (compute capability 9.x) in Gluon: rows @ columns.T, tile after tile.

Factors are bfloat16, float16 or e4m3 (`kernels.fp8`), of which a step takes twice as many channels.

A producer warp copies tiles of both factors into a ring of shared memory by TMA, without a pause between tiles; two
groups of four warps each multiply 64 rows by the ring's 256 columns and keep the product in registers. Each group
continues when its own product is done, so that its epilogue overlaps with the other group's next product.
"""

import functools
from typing import Any, NamedTuple

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

ROWS = 64  # of a group
GROUPS = 2
COLUMNS = 256  # of a tile
CHANNELS = 64  # of a step, of 16-bit numbers
CHANNELS8 = 128  # of 8-bit numbers: as many bytes
REGISTERS = (240, 24)  # of a thread of a group, of a thread of the producer
LAUNCH_REGISTERS = 168
DTYPES = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16, torch.float8_e4m3fn: gl.float8e4nv}
_ROWS, _GROUPS, _COLUMNS = (gl.constexpr(v) for v in (ROWS, GROUPS, COLUMNS))
# The second name is that before Triton 3.7.
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global


@gluon.jit
def silu(x):
    """SiLU as x/2 (1 + tanh(x/2)), for results of 16 bits: off by at most 2.5e-4 |x|.

    The device's approximate tanh is one instruction of the unit that limits this; a power and a reciprocal are two.
    """
    half = 0.5 * x
    tanh = gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [half], dtype=gl.float32, is_pure=True, pack=1)
    return half * tanh + half


@gluon.jit
def next_stage(stage, phase, STAGES: gl.constexpr):
    """The ring's next stage, and the barrier phase of it."""
    last = stage == STAGES - 1
    return gl.where(last, 0, stage + 1), gl.where(last, phase ^ 1, phase)


@gluon.jit
def place(task, n_blocks, n_parts, TOGETHER: gl.constexpr):
    """The (block of rows, part of the columns) of a task: TOGETHER blocks take a part, then the next part.

    So data that is read again, blocks or columns, is in the L2 cache.
    """
    first = task // (TOGETHER * n_parts) * TOGETHER
    size = gl.minimum(TOGETHER, n_blocks - first)
    within = task % (TOGETHER * n_parts)
    return first + within % size, within // size


@gluon.jit
def make_ring(rows, columns, STAGES: gl.constexpr):
    """Shared memory for STAGES steps, and its barriers. All warps call it, before they specialize."""
    channels: gl.constexpr = rows.block_type.shape[1]
    row_tiles = gl.allocate_shared_memory(rows.dtype, [STAGES * _GROUPS, _ROWS, channels], rows.layout)
    column_tiles = gl.allocate_shared_memory(columns.dtype, [STAGES, _COLUMNS, channels], columns.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(full.index(stage), count=1)
        mbarrier.init(empty.index(stage), count=_GROUPS)
    fence_async_shared()
    return row_tiles, column_tiles, full, empty


@gluon.jit
def fill(rows, columns, block, first, ring, stage, phase, D: gl.constexpr):
    """For the producer: copies a product's tiles into the ring, of a block of rows and the columns from `first`."""
    row_tiles, column_tiles, full, empty = ring
    STAGES: gl.constexpr = column_tiles.shape[0]
    CHANNELS: gl.constexpr = column_tiles.shape[2]
    for channel in range(0, D, CHANNELS):
        mbarrier.wait(empty.index(stage), phase ^ 1)
        ready = full.index(stage)
        mbarrier.expect(ready, _GROUPS * rows.block_type.nbytes + columns.block_type.nbytes)
        for group in gl.static_range(_GROUPS):
            load(rows, [(block * _GROUPS + group) * _ROWS, channel], ready, row_tiles.index(stage * _GROUPS + group))
        load(columns, [first, channel], ready, column_tiles.index(stage).slice(0, columns.block_type.shape[0]))
        stage, phase = next_stage(stage, phase, STAGES)
    return stage, phase


@gluon.jit
def multiply(x, group: gl.constexpr, ring, stage, phase, D: gl.constexpr):
    """The group's product of the ring's next tile, into x [64, columns] float32; the ring's stage and phase then."""
    row_tiles, column_tiles, full, empty = ring
    STAGES: gl.constexpr = column_tiles.shape[0]
    STEPS: gl.constexpr = D // column_tiles.shape[2]
    # Not `before = stage`: Triton takes a name that is the same variable at start and end of a loop for a constant.
    before = gl.where(stage == 0, STAGES - 1, stage - 1)
    for step in range(STEPS):
        mbarrier.wait(full.index(stage), phase)
        left = row_tiles.index(stage * _GROUPS + group)
        right = column_tiles.index(stage).slice(0, x.shape[1]).permute((1, 0))
        x = warpgroup_mma(left, right, x, use_acc=step > 0, is_async=True)
        # The product before this one has ended, so its stage is free.
        x = warpgroup_mma_wait(1, deps=(x,))
        mbarrier.arrive(empty.index(before), pred=step > 0)
        before = stage
        stage, phase = next_stage(stage, phase, STAGES)
    x = warpgroup_mma_wait(0, deps=(x,))
    mbarrier.arrive(empty.index(before))
    return x, stage, phase


def supports(*factors: Tensor) -> bool:
    """Whether `tiles` supports these [*, D]: 16-bit floats on Hopper, D a multiple of 64, rows that TMA can copy."""
    return all(x.element_size() == 2 and _copied(x, CHANNELS) for x in factors)


def supports8(*factors: Tensor) -> bool:
    """As `supports`, of e4m3 with D a multiple of 128."""
    return all(x.element_size() == 1 and _copied(x, CHANNELS8) for x in factors)


def _copied(x: Tensor, channels: int) -> bool:
    return (
        x.dtype in DTYPES
        and x.is_cuda
        and device(x.device.index).major == 9
        and x.shape[1] % channels == 0
        and x.stride(1) == 1
        and x.data_ptr() % 16 == 0
        and x.stride(0) * x.element_size() % 16 == 0
    )


def channels(x: Tensor) -> int:
    """The channels of a step of a product."""
    return CHANNELS8 if x.element_size() == 1 else CHANNELS


@functools.cache  # needed at every launch, and slow to query
def device(index: int) -> Any:
    """The properties of a CUDA device."""
    return torch.cuda.get_device_properties(index)


@functools.cache  # takes as long to make as a launch
def _layout(block: tuple[int, ...], dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for(list(block), DTYPES[dtype])


def tiles(x: Tensor, block: list[int]) -> TensorDescriptor:
    """The TMA descriptor of a matrix that is copied a block at a time."""
    return TensorDescriptor.from_tensor(x, block, _layout(tuple(block), x.dtype))


class Work(NamedTuple):
    """How a product is divided among programs."""

    programs: int
    blocks: int  # of rows
    parts: int  # of the columns


def divide(x: Tensor, n_columns: int, part: int) -> Work:
    """The work of a product of x [N, D]: one program a multiprocessor; program i takes tasks i, i + programs, ..."""
    blocks, parts = -(-len(x) // (GROUPS * ROWS)), -(-n_columns // part)
    return Work(min(device(x.device.index).multi_processor_count, blocks * parts), blocks, parts)
