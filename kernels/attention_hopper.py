"""Packed attention on Hopper (compute capability 9.x) in Gluon, for heads 64 or 128 wide without window and soft cap.

One program a multiprocessor goes through its share of (block of queries, head), with the keys in tiles that are counted
from the document's start. A producer warp copies the queries' and the keys' tiles into shared memory by TMA, without a
pause between blocks. Two groups of four warps take half of the queries each. A group takes the last tile of keys first,
which alone is masked; then each step begins the product of the next tile's scores and that of this tile's values, so
that the matrix units work while the exponentials are computed. Exponentials are in base 2, as in
`kernels.attention_triton`.
"""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from kernels import tiles_hopper
from kernels.attention_triton import LOWEST
from kernels.blocks import blocks_of
from kernels.pack import LOG2_E, Pack
from kernels.tiles_hopper import barrier, load, next_stage

QUERIES = 64  # of a group
GROUPS = 2
KEYS = 128  # of a tile
WIDTHS = (64, 128)  # of a head
_STAGES = 2
_QUERIES, _GROUPS, _KEYS = (gl.constexpr(value) for value in (QUERIES, GROUPS, KEYS))
_REGISTERS, _PRODUCER_REGISTERS = (gl.constexpr(count) for count in tiles_hopper.REGISTERS)
_LOWEST = gl.constexpr(LOWEST)


@gluon.jit
def _rounds(n_items):
    """How many items the program has."""
    programs = gl.num_programs(0)
    whole = n_items // programs
    return whole + gl.where(_item(whole) < n_items, 1, 0)


@gluon.jit
def _item(turn):
    """The program's item of a round: every other round is dealt backwards, as blocks become shorter."""
    program = gl.program_id(0)
    last = gl.num_programs(0) - 1
    return turn * (last + 1) + gl.where(turn % 2 == 0, program, last - program)


@gluon.jit
def _block(blocks_ptr, block, CAUSAL: gl.constexpr):
    """First token and length of a block's document, the block's first token in it, and where its last tile begins."""
    document = gl.load(blocks_ptr + block * 4)
    length = gl.load(blocks_ptr + block * 4 + 1)
    first = gl.load(blocks_ptr + block * 4 + 2)
    if CAUSAL:
        end = gl.minimum(first + _GROUPS * _QUERIES, length)
    else:
        end = length
    return document, length, first, (end - 1) // _KEYS * _KEYS


@gluon.jit
def _widened(x, COLUMNS: gl.constexpr, layout: gl.constexpr):
    """x [R, C] with columns of zeros after its own, if it has fewer than COLUMNS, half as many: [R, COLUMNS]."""
    if x.shape[1] < COLUMNS:
        zeros = gl.zeros_like(x)
        wide = gl.join(x, zeros).permute((0, 2, 1)).reshape([x.shape[0], COLUMNS])
    else:
        wide = x
    return gl.convert_layout(wide, layout)


@gluon.jit
def _produce(sources, tiles, bars, blocks_ptr, n_items, heads, shared, D: gl.constexpr, CAUSAL: gl.constexpr):
    """The producer warp: copies queries, keys and values of the program's items. `shared`: heads with the same keys."""
    q, k, v = sources
    q_tiles, k_tiles, v_tiles = tiles
    q_full, q_empty, k_full, k_empty, v_full, v_empty = bars
    STAGES: gl.constexpr = k_tiles.shape[0]
    stage = 0
    phase = 0
    for turn in range(_rounds(n_items)):
        item = _item(turn)
        document, _length, first, last = _block(blocks_ptr, item // heads, CAUSAL)
        head = item % heads
        for group in gl.static_range(_GROUPS):
            place = turn % 2 * _GROUPS + group
            mbarrier.wait(q_empty.index(place), turn // 2 & 1 ^ 1)
            mbarrier.expect(q_full.index(place), q.block_type.nbytes)
            load(q, [document + first + group * _QUERIES, head * D], q_full.index(place), q_tiles.index(place))
        column = head // shared * D
        for done in range(0, last + 1, _KEYS):
            row = document + last - done
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k.block_type.nbytes)
            load(k, [row, column], k_full.index(stage), k_tiles.index(stage))
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v.block_type.nbytes)
            load(v, [row, column], v_full.index(stage), v_tiles.index(stage))
            stage, phase = next_stage(stage, phase, STAGES)


@gluon.jit
def _consume(
    group: gl.constexpr, tiles, bars, blocks_ptr, out_ptr, n_items, heads, outer,
    D: gl.constexpr, CAUSAL: gl.constexpr,
):  # fmt: skip
    """One group of four warps: attention of its 64 queries of each item. `outer`: scale · log2(e)."""
    q_tiles, k_tiles, v_tiles = tiles
    q_full, q_empty, k_full, k_empty, v_full, v_empty = bars
    STAGES: gl.constexpr = k_tiles.shape[0]
    dtype: gl.constexpr = q_tiles.dtype
    # Of the last tile, which is around the diagonal, the queries of the first group see no more than half.
    LAST: gl.constexpr = _KEYS // 2 if CAUSAL and group == 0 else _KEYS
    last_scores: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, LAST, 16]
    )
    scores: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, _KEYS, 16])
    values: gl.constexpr = gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, D, 16])
    operand: gl.constexpr = gl.DotOperandLayout(0, values, 2)
    each: gl.constexpr = gl.SliceLayout(1, values)
    flat: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])  # 16 bytes a thread, whole rows
    in_tile = gl.arange(0, LAST, gl.SliceLayout(0, last_scores))
    in_flat = gl.arange(0, _KEYS, gl.SliceLayout(1, flat))
    row_flat = group * _QUERIES + gl.arange(0, _QUERIES, gl.SliceLayout(1, flat))
    channel = gl.arange(0, D, gl.SliceLayout(0, flat))
    stage = 0
    phase = 0
    item = _item(0)
    document, length, first, last = _block(blocks_ptr, item // heads, CAUSAL)
    rounds = _rounds(n_items)
    for turn in range(rounds):
        # Read ahead: a block's fields come from afar.
        next_item = gl.where(turn + 1 < rounds, _item(turn + 1), item)
        next_document, next_length, next_first, next_last = _block(blocks_ptr, next_item // heads, CAUSAL)
        place = turn % 2 * _GROUPS + group
        q_tile = q_tiles.index(place)
        mbarrier.wait(q_full.index(place), turn // 2 & 1)

        # The last tile: keys after a query, and rows of the next document.
        mbarrier.wait(k_full.index(stage), phase)
        x = gl.zeros([_QUERIES, LAST], gl.float32, last_scores)
        x = warpgroup_mma(q_tile, k_tiles.index(stage).slice(0, LAST).permute((1, 0)), x, use_acc=False, is_async=True)
        x = warpgroup_mma_wait(0, deps=(x,))
        mbarrier.arrive(k_empty.index(stage))
        if CAUSAL:  # rows past the document's end are not stored: they see its last key
            row = first + group * _QUERIES + gl.arange(0, _QUERIES, gl.SliceLayout(1, last_scores))
            end = gl.minimum(row, length - 1)[:, None]
        else:
            end = length - 1
        x = gl.where((last + in_tile)[None, :] <= end, x, float("-inf"))
        top = gl.maximum(gl.max(x, axis=1) * outer, _LOWEST)
        x = gl.exp2(x * outer - top[:, None])
        total = gl.convert_layout(gl.sum(x, axis=1), gl.SliceLayout(1, scores))
        top = gl.convert_layout(top, gl.SliceLayout(1, scores))
        weights = _widened(x.to(dtype), _KEYS, operand)
        mbarrier.wait(v_full.index(stage), phase)
        if length - last < _KEYS:  # not even a NaN of the next document may change this one; both groups write the same
            tile = v_tiles.index(stage)
            past = (last + in_flat >= length)[:, None]
            tile.store(gl.where(past, gl.zeros([_KEYS, D], dtype, flat), tile.load(flat)))
            fence_async_shared()
            barrier()

        s = gl.zeros([_QUERIES, _KEYS], gl.float32, scores)
        acc = gl.zeros([_QUERIES, D], gl.float32, values)
        for _start in range(0, last, _KEYS):
            following, following_phase = next_stage(stage, phase, STAGES)
            mbarrier.wait(k_full.index(following), following_phase)
            s = warpgroup_mma(q_tile, k_tiles.index(following).permute((1, 0)), s, use_acc=False, is_async=True)
            acc = warpgroup_mma(weights, v_tiles.index(stage), acc, is_async=True)
            s = warpgroup_mma_wait(1, deps=(s,))
            mbarrier.arrive(k_empty.index(following))
            higher = gl.maximum(top, gl.max(s, axis=1) * outer)
            p = gl.exp2(s * outer - higher[:, None])
            fade = gl.exp2(top - higher)
            total = total * fade + gl.sum(p, axis=1)
            top = higher
            acc = warpgroup_mma_wait(0, deps=(acc,))
            mbarrier.arrive(v_empty.index(stage))
            acc *= gl.convert_layout(fade, each)[:, None]
            weights = gl.convert_layout(p.to(dtype), operand)
            stage = following
            phase = following_phase
            mbarrier.wait(v_full.index(stage), phase)
        acc = warpgroup_mma(weights, v_tiles.index(stage), acc, is_async=True)
        acc = warpgroup_mma_wait(0, deps=(acc,))
        mbarrier.arrive(v_empty.index(stage))
        stage, phase = next_stage(stage, phase, STAGES)

        acc *= gl.convert_layout(1.0 / total, each)[:, None]
        q_tile.store(acc.to(dtype))  # into whole rows
        barrier()
        rows = ((document + first + row_flat).to(gl.int64) * heads + item % heads)[:, None] * D + channel[None, :]
        gl.store(out_ptr + rows, q_tile.load(flat), mask=(first + row_flat < length)[:, None])
        fence_async_shared()  # the loads have ended when the tile is filled again
        barrier()
        mbarrier.arrive(q_empty.index(place))
        item = next_item
        document = next_document
        length = next_length
        first = next_first
        last = next_last


@gluon.jit(do_not_specialize=["n_items"])
def _attention_kernel(
    q, k, v, blocks_ptr, out_ptr, n_items, heads, shared, outer, D: gl.constexpr, CAUSAL: gl.constexpr,
    STAGES: gl.constexpr,
):  # fmt: skip
    q_tiles = gl.allocate_shared_memory(q.dtype, [2 * _GROUPS, _QUERIES, D], q.layout)
    k_tiles = gl.allocate_shared_memory(k.dtype, [STAGES, _KEYS, D], k.layout)
    v_tiles = gl.allocate_shared_memory(v.dtype, [STAGES, _KEYS, D], v.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [2 * _GROUPS, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [2 * _GROUPS, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2 * _GROUPS):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_empty.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=_GROUPS)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(v_empty.index(i), count=_GROUPS)
    fence_async_shared()
    tiles = (q_tiles, k_tiles, v_tiles)
    bars = (q_full, q_empty, k_full, k_empty, v_full, v_empty)
    gl.warp_specialize(
        [
            (_consume, (0, tiles, bars, blocks_ptr, out_ptr, n_items, heads, outer, D, CAUSAL)),
            (_consume, (1, tiles, bars, blocks_ptr, out_ptr, n_items, heads, outer, D, CAUSAL)),
            (_produce, ((q, k, v), tiles, bars, blocks_ptr, n_items, heads, shared, D, CAUSAL)),
        ],
        [4, 1],
        [_REGISTERS, _PRODUCER_REGISTERS],
    )


def supports(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attention` takes these: 16-bit floats on Hopper, heads of one of WIDTHS, rows that TMA can copy."""
    width = q.shape[2]
    return width in WIDTHS and all(m.stride(1) == width and tiles_hopper.supports(m.flatten(1)) for m in (q, k, v))


def attention(q: Tensor, k: Tensor, v: Tensor, pack: Pack, scale: float, *, causal: bool) -> Tensor:
    """`kernels.attention.packed_attention` for checked arguments that `supports` accepts."""
    _, heads, width = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    blocks = blocks_of(pack, GROUPS * QUERIES)
    items = len(blocks) * heads
    _attention_kernel[(min(tiles_hopper.device(q.device.index).multi_processor_count, items),)](
        tiles_hopper.tiles(q.flatten(1), [QUERIES, width]),
        tiles_hopper.tiles(k.flatten(1), [KEYS, width]),
        tiles_hopper.tiles(v.flatten(1), [KEYS, width]),
        blocks, out, items, heads, heads // k.shape[1], scale * LOG2_E, width, causal, _STAGES,
        num_warps=4, maxnreg=tiles_hopper.LAUNCH_REGISTERS,
    )  # fmt: skip
    return out
