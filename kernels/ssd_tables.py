"""How the SSD cuts a pack: chunks, segments of chunks, and who walks through which. Made on the host, in numpy."""

from __future__ import annotations

import heapq
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import Pack, Table

CHUNK = 64  # positions; the triangle's product grows with it, the trips of the state shrink
SEGMENT = 2048  # positions that one program walks through at most: 2^k chunks
_OVERHEAD = 2  # chunks that the start of a segment costs
_HEAP = 20_000  # items up to which the next goes to the least loaded program; more are dealt out


def chunks(lengths: NDArray[np.int64]) -> Table:
    """(start, length) of each chunk, [C, 2]. Chunks start anew at each document, the last of one as it falls."""
    return _pieces(lengths, CHUNK)[:, :2].astype(np.int32)


def segments(lengths: NDArray[np.int64], size: int) -> Table:
    """(start, length, first chunk, document, entry, last) of each segment, [K, 6], the longest first.

    `entry` is the index of the state before the segment among those of `shares`; -1 for a document's first.
    """
    start, length, document, rank, last = _pieces(lengths, size).T
    followed = last == 0
    entry = np.where(rank > 0, np.cumsum(followed) - followed - 1, -1)
    table = np.stack((start, length, _first_chunks(lengths, document, rank, size), document, entry, last), axis=1)
    longest_first: NDArray[np.int64] = np.argsort(-length, kind="stable")
    return cast(Table, table[longest_first].astype(np.int32))


def shares(lengths: NDArray[np.int64], size: int) -> Table:
    """(start, first chunk) of each segment that another follows, [E, 2], in the order of the text; each is full."""
    start, _, document, rank, last = _pieces(lengths, size).T
    table = np.stack((start, _first_chunks(lengths, document, rank, size)), axis=1)
    return cast(Table, table[last == 0].astype(np.int32))


def chains(lengths: NDArray[np.int64], size: int) -> Table:
    """(first index, count, document) of the shares of each document that has any, [L, 3]."""
    counts = -(-lengths // size) - 1
    first = np.cumsum(counts) - counts
    return np.stack((first, counts, np.arange(len(lengths))), axis=1)[counts > 0].astype(np.int32)


def items(segments: Table, heads: int, groups: int, together: int, programs: int) -> tuple[Table, Table]:
    """The work of each of `programs` programs that take `together` neighbouring heads of a segment at a time.

    Returns (start, length, first chunk, first head, group, document, entry, last) of each item, [I, 8], and where each
    program's begin and the last's end, [programs + 1]. The longest go first, each to the least loaded program.
    """
    first_heads = np.arange(0, heads, together)
    every = np.repeat(segments, len(first_heads), axis=0)
    head = np.tile(first_heads, len(segments))
    table = np.insert(every, [3, 3], np.stack((head, head // (heads // groups)), axis=1), axis=1)
    cost = (-(-every[:, 1] // CHUNK) + _OVERHEAD).tolist()
    if len(table) <= _HEAP:
        loads = [(0, program) for program in range(programs)]
        owner = np.empty(len(table), np.int64)
        for index, chunks_ in enumerate(cost):
            load, program = loads[0]
            owner[index] = program
            heapq.heapreplace(loads, (load + chunks_, program))
    else:
        turn = np.arange(len(table)) % (2 * programs)
        owner = np.where(turn < programs, turn, 2 * programs - 1 - turn)
    order = np.argsort(owner, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=programs))))
    return table[order].astype(np.int32), offsets.astype(np.int32)


def items_of(pack: Pack, size: int, heads: int, groups: int, together: int, programs: int) -> tuple[Tensor, Tensor]:
    """`items` of a pack's segments of `size` positions, on its device."""
    made: list[Table] = []

    def both() -> list[Table]:
        if not made:
            made.extend(items(segments(pack.lengths, size), heads, groups, together, programs))
        return made

    name = f"ssd items {size} {heads} {groups} {together} {programs}"
    return pack.table(name, lambda _: both()[0]), pack.table(f"{name} offsets", lambda _: both()[1])


def _pieces(lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """(start, length, document, rank in it, last) of consecutive pieces of `size` positions, the last as it falls."""
    counts = -(-lengths // size)
    document = np.repeat(np.arange(len(lengths)), counts)
    rank = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.cumsum(lengths) - lengths)[document] + rank * size
    length = np.minimum(size, lengths[document] - rank * size)
    return np.stack((start, length, document, rank, rank == counts[document] - 1), axis=1)


def _first_chunks(
    lengths: NDArray[np.int64], document: NDArray[np.int64], rank: NDArray[np.int64], size: int
) -> NDArray[np.int64]:
    """The first chunk of pieces of `size` positions."""
    counts = -(-lengths // CHUNK)
    return (np.cumsum(counts) - counts)[document] + rank * (size // CHUNK)
