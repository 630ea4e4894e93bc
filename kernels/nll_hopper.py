"""The NLL head's partial sums on Hopper (compute capability 9.x), in Gluon: at the speed of the product alone."""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from kernels import tiles_hopper
from kernels.e4m3 import Fp8Rows, parts
from kernels.nll_triton import LOWEST, PART
from kernels.pack import LOG2_E
from kernels.tiles_hopper import COLUMNS, ROWS, fill, make_ring, multiply, place

_PART, _LOG2_E, _LOWEST = gl.constexpr(PART), gl.constexpr(LOG2_E), gl.constexpr(LOWEST)
_ROWS, _COLUMNS, _GROUPS = gl.constexpr(ROWS), gl.constexpr(COLUMNS), gl.constexpr(tiles_hopper.GROUPS)
_REGISTERS, _PRODUCER_REGISTERS = (gl.constexpr(count) for count in tiles_hopper.REGISTERS)
_TOGETHER = gl.constexpr(64)  # blocks of rows: they stay in the L2 cache; the vocabulary's matrix does not
_STAGES = 4


@gluon.jit
def _produce(hidden, weight, ring, sizes, D: gl.constexpr):
    n_blocks, n_parts, n_vocabulary = sizes
    stage = 0
    phase = 0
    for task in range(gl.program_id(0), n_blocks * n_parts, gl.num_programs(0)):
        block, part = place(task, n_blocks, n_parts, _TOGETHER)
        for first in range(part * _PART, gl.minimum(part * _PART + _PART, n_vocabulary), _COLUMNS):
            stage, phase = fill(hidden, weight, block, first, ring, stage, phase, D)


@gluon.jit
def _consume(
    group: gl.constexpr, ring, outputs, scales, n_rows, sizes, scale, softcap,
    D: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_SOFTCAP: gl.constexpr,
):  # fmt: skip
    bias, tops, sums = outputs
    row_scale_ptr, entry_scale_ptr = scales
    n_blocks, n_parts, n_vocabulary = sizes
    _row_tiles, column_tiles, _full, _empty = ring
    STEP: gl.constexpr = 256 // column_tiles.dtype.primitive_bitwidth  # channels of an instruction
    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _COLUMNS, STEP]
    )
    row_layout: gl.constexpr = gl.SliceLayout(1, layout)
    entry_layout: gl.constexpr = gl.SliceLayout(0, layout)
    x = gl.zeros([_ROWS, _COLUMNS], gl.float32, layout)
    stage = 0
    phase = 0
    for task in range(gl.program_id(0), n_blocks * n_parts, gl.num_programs(0)):
        block, part = place(task, n_blocks, n_parts, _TOGETHER)
        rows = (block * _GROUPS + group) * _ROWS + gl.arange(0, _ROWS, row_layout)
        if row_scale_ptr is not None:
            row_scale = gl.load(row_scale_ptr + rows, mask=rows < n_rows, other=0.0)
        top = gl.full([_ROWS], _LOWEST, gl.float32, row_layout)
        total = gl.zeros([_ROWS], gl.float32, row_layout)
        for first in range(part * _PART, gl.minimum(part * _PART + _PART, n_vocabulary), _COLUMNS):
            x, stage, phase = multiply(x, group, ring, stage, phase, D)
            if row_scale_ptr is not None:  # of quantized factors
                entries = first + gl.arange(0, _COLUMNS, entry_layout)
                entry_scale = gl.load(entry_scale_ptr + entries)  # filled up to whole tiles
                x = x * row_scale[:, None] * entry_scale[None, :]
            if HAS_BIAS:
                entries = first + gl.arange(0, _COLUMNS, entry_layout)
                x += gl.load(bias + entries, mask=entries < n_vocabulary, other=0.0)[None, :]
            if HAS_SOFTCAP:  # tanh(z) = 1 - 2 / (e^2z + 1)
                x = softcap * (1 - 2 / (gl.exp2(x * (scale * 2 * _LOG2_E / softcap)) + 1))
                factor = _LOG2_E
            else:
                factor = scale * _LOG2_E
            if first + _COLUMNS > n_vocabulary:
                entries = first + gl.arange(0, _COLUMNS, entry_layout)
                x = gl.where(entries[None, :] < n_vocabulary, x, -float("inf"))
            previous = top
            top = gl.maximum(previous, gl.max(x, axis=1) * factor)
            total = total * gl.exp2(previous - top) + gl.sum(gl.exp2(x * factor - top[:, None]), axis=1)

        out = part.to(gl.int64) * n_rows + rows
        gl.store(tops + out, top, mask=rows < n_rows)
        gl.store(sums + out, total, mask=rows < n_rows)


@gluon.jit(do_not_specialize=["n_rows", "n_blocks"])
def _partial_sums(
    hidden, weight, bias, row_scale, entry_scale, tops, sums, n_rows, n_blocks, n_parts, n_vocabulary, scale, softcap,
    D: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_SOFTCAP: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    ring = make_ring(hidden, weight, STAGES)
    outputs = (bias, tops, sums)
    scales = (row_scale, entry_scale)
    sizes = (n_blocks, n_parts, n_vocabulary)
    gl.warp_specialize(
        [
            (_consume, (0, ring, outputs, scales, n_rows, sizes, scale, softcap, D, HAS_BIAS, HAS_SOFTCAP)),
            (_consume, (1, ring, outputs, scales, n_rows, sizes, scale, softcap, D, HAS_BIAS, HAS_SOFTCAP)),
            (_produce, (hidden, weight, ring, sizes, D)),
        ],
        [4, 1],
        [_REGISTERS, _PRODUCER_REGISTERS],
    )


def partial_sums(
    hidden: Tensor | Fp8Rows,
    weight: Tensor | Fp8Rows,
    bias: Tensor | None,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """As `kernels.nll_triton.partial_sums`, for what `tiles_hopper.supports`, or `supports8` if quantized.

    A quantized weight has a multiple of 256 rows.
    """
    (x, of_rows, n_rows), (entries, of_entries, n_vocabulary) = parts(hidden), parts(weight)
    channels = tiles_hopper.channels(x)
    work = tiles_hopper.divide(x, n_vocabulary, PART)
    tops, sums = torch.empty((2, work.parts, n_rows), dtype=torch.float32, device=x.device)
    _partial_sums[(work.programs,)](
        tiles_hopper.tiles(x, [ROWS, channels]), tiles_hopper.tiles(entries, [COLUMNS, channels]),
        tops if bias is None else bias, of_rows, of_entries, tops, sums,
        n_rows, work.blocks, work.parts, n_vocabulary, scale, softcap or 1.0,
        x.shape[1], bias is not None, softcap is not None, _STAGES,
        num_warps=4, maxnreg=tiles_hopper.LAUNCH_REGISTERS,
    )  # fmt: skip
    return tops, sums
