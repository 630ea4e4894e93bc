"""How the SSD cuts a pack: chunks, segments of chunks, and each program's share of them. Numpy on the host."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import Pack, Table

CHUNK = 64  # positions; a larger one makes the triangular product larger and the scan of states shorter
FORGOTTEN = -200.0  # a log decay in base 2 whose power is zero in float32
Parts = Callable[[NDArray[np.int64]], Table]  # of documents' lengths
_HEAP = 20_000  # items up to which each goes to the least loaded program; more are dealt in turn


class Cut(NamedTuple):
    """How long documents are cut: by their own length alone, so that a document's bits do not depend on its pack."""

    segment: int  # positions that one program scans, about
    pieces: int  # that a document has, at least, before its last segment; one program computes each one's state
    wave: int = 1  # segments that keep a device busy by themselves: a document with more has a multiple of them

    def of(self, lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each document [S]: the positions of its segments (the last may be shorter), and the pieces in each."""
        count = -(-lengths // self.segment)
        if self.wave > 1:
            waves = np.maximum(np.rint(lengths / (self.segment * self.wave)), 1).astype(np.int64)
            count = np.where(count > self.wave, waves * self.wave, count)
        pieces = np.where(count > 1, -(-self.pieces // np.maximum(count - 1, 1)), 1)
        return -(-lengths // (count * pieces * CHUNK)) * pieces * CHUNK, pieces

    @property
    def chunks(self) -> int:
        """The most chunks of a piece."""
        return self.segment * 3 // 2 // CHUNK + self.pieces


CUT = Cut(segment=6144, pieces=4, wave=11)  # 11 segments of 12 pairs of heads are the 132 multiprocessors of an H100


def chunks(lengths: NDArray[np.int64]) -> Table:
    """(start, length) of each chunk, [C, 2]. Chunks start anew at each document; a document's last may be short."""
    return _parts(lengths, np.full_like(lengths, CHUNK))[:, :2].astype(np.int32)


def documents(lengths: NDArray[np.int64]) -> Table:
    """(start, length, first chunk, number) of each document, [S, 4], the longest first."""
    table = _parts(lengths, lengths)[:, :4]
    longest_first: NDArray[np.int64] = np.argsort(-lengths, kind="stable")
    return cast(Table, table[longest_first].astype(np.int32))


def segments(lengths: NDArray[np.int64], cut: Cut) -> Table:
    """(start, length, first chunk, document, entry, last) of each segment, [K, 6], the longest first.

    `entry` is the index of the last piece before the segment among `pieces`; -1 for a document's first.
    """
    sizes, each = cut.of(lengths)
    start, length, chunk, document, rank, last = _parts(lengths, sizes).T
    made = np.where(last == 0, each[document], 0)  # pieces
    entry = np.where(rank > 0, np.cumsum(made) - made - 1, -1)
    table = np.stack((start, length, chunk, document, entry, last), axis=1)
    longest_first: NDArray[np.int64] = np.argsort(-length, kind="stable")
    return cast(Table, table[longest_first].astype(np.int32))


def pieces(lengths: NDArray[np.int64], cut: Cut) -> Table:
    """(start, length, first chunk, index, -1, 1) of the pieces of all segments but documents' last, [E, 6].

    In the form of segments that are each a document, in the order of the text. All have whole chunks.
    """
    sizes, each = cut.of(lengths)
    start, _, chunk, document, rank, _ = _parts(lengths, sizes // each).T
    inside = rank < ((-(-lengths // sizes) - 1) * each)[document]
    start, chunk, document = start[inside], chunk[inside], document[inside]
    same = np.ones_like(start)
    table = (start, (sizes // each)[document], chunk, np.arange(len(start)), -same, same)
    return np.stack(table, axis=1).astype(np.int32)


def chains(lengths: NDArray[np.int64], cut: Cut) -> Table:
    """(first, count, document, first chunk, chunks of each) of the pieces of each document that has any, [L, 5]."""
    sizes, each = cut.of(lengths)
    counts = (-(-lengths // sizes) - 1) * each
    chunks = -(-lengths // CHUNK)
    firsts = np.cumsum(counts) - counts, np.cumsum(chunks) - chunks
    table = (firsts[0], counts, np.arange(len(lengths)), firsts[1], sizes // each // CHUNK)
    return np.stack(table, axis=1)[counts > 0].astype(np.int32)


def items(segments: Table, heads: int, groups: int, together: int, programs: int) -> tuple[Table, Table]:
    """The work of each of `programs` programs that take `together` neighbouring heads of a segment at a time.

    Returns (start, length, first chunk, first head, group, document, entry, last) of each item, [I, 8], and where each
    program's begin and the last's end, [programs + 1]. The longest go first, each to the least loaded program.
    """
    first_heads = np.arange(0, heads, together)
    every = np.repeat(segments, len(first_heads), axis=0)
    head = np.tile(first_heads, len(segments))
    table = np.insert(every, [3, 3], np.stack((head, head // (heads // groups)), axis=1), axis=1)
    cost = (-(-every[:, 1] // CHUNK)).tolist()
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


def items_of(
    pack: Pack, name: str, parts: Parts, heads: int, groups: int, together: int, programs: int
) -> tuple[Tensor, Tensor]:
    """`items` of the parts of a pack, on its device; made once for each name and shape."""
    made: list[Table] = []

    def both() -> list[Table]:
        if not made:
            made.extend(items(parts(pack.lengths), heads, groups, together, programs))
        return made

    name = f"ssd {name} {heads} {groups} {together} {programs}"
    return pack.table(name, lambda _: both()[0]), pack.table(f"{name} offsets", lambda _: both()[1])


def _parts(lengths: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(start, length, first chunk, document, rank in it, last) of consecutive parts of a size by document."""
    counts = -(-lengths // sizes)
    document = np.repeat(np.arange(len(lengths)), counts)
    rank = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    before = rank * sizes[document]
    start = (np.cumsum(lengths) - lengths)[document] + before
    length = np.minimum(sizes[document], lengths[document] - before)
    chunks = -(-lengths // CHUNK)
    chunk = (np.cumsum(chunks) - chunks)[document] + before // CHUNK
    return np.stack((start, length, chunk, document, rank, rank == counts[document] - 1), axis=1)
