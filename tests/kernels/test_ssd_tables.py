"""How packs are cut for the SSD: all of it, once, each document by its own length alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kernels import ssd_tables
from kernels.ssd_tables import CHUNK, CUT, Cut

CUTS = [CUT, Cut(segment=128, pieces=2), Cut(segment=128, pieces=2, wave=3)]
LENGTHS = st.lists(st.integers(1, 1000) | st.integers(5_000, 200_000), min_size=1, max_size=12).map(np.array)


def covered(parts: NDArray[np.int32]) -> NDArray[np.int64]:
    """The positions in (start, length, ...) of each part, in order."""
    return np.concatenate([np.arange(start, start + length) for start, length in parts[:, :2]])


@given(LENGTHS)
def test_chunks_cover_a_pack_and_no_two_documents(lengths: NDArray[np.int64]) -> None:
    parts = ssd_tables.chunks(lengths)
    assert (covered(parts) == np.arange(lengths.sum())).all()
    assert parts[:, 1].max() <= CHUNK
    assert set(lengths.cumsum() - lengths) <= set(parts[:, 0].tolist())


@pytest.mark.parametrize("cut", CUTS)
@given(lengths=LENGTHS)
def test_segments_cover_a_pack_and_pieces_all_but_the_last_of_each(cut: Cut, lengths: NDArray[np.int64]) -> None:
    parts, inside = ssd_tables.segments(lengths, cut), ssd_tables.pieces(lengths, cut)
    in_order = parts[parts[:, 0].argsort()]
    assert (covered(in_order) == np.arange(lengths.sum())).all()
    starts = lengths.cumsum() - lengths
    chunks = -(-lengths // CHUNK)
    for start, length, chunk, document, entry, last in parts:
        at = start - starts[document]
        assert at % CHUNK == 0
        assert chunk == (chunks.cumsum() - chunks)[document] + at // CHUNK
        assert last == (at + length == lengths[document])
        assert length <= cut.chunks * CHUNK
        if at == 0:
            assert entry == -1
        else:  # the piece that ends where the segment begins
            assert inside[entry, 0] + inside[entry, 1] == start
    wanted = [np.arange(s, s + n) for s, n, *_, last in in_order if not last]
    if wanted:
        assert (covered(inside) == np.concatenate(wanted)).all()
    assert (inside[:, 1] % CHUNK == 0).all()
    assert (inside[:, 1] <= cut.chunks * CHUNK).all()
    of_chains = [(first, count) for first, count, *_ in ssd_tables.chains(lengths, cut)]
    assert sum(count for _, count in of_chains) == len(inside)


@pytest.mark.parametrize("cut", CUTS)
@given(lengths=LENGTHS, place=st.integers(0, 100))
def test_neighbours_change_no_cut(cut: Cut, lengths: NDArray[np.int64], place: int) -> None:
    document = place % len(lengths)
    together, alone = (ssd_tables.segments(n, cut) for n in (lengths, lengths[[document]]))
    before = lengths[:document].sum()
    own = together[together[:, 3] == document]
    assert (own[:, :2] - [before, 0] == alone[:, :2]).all()


@given(LENGTHS, st.sampled_from([(4, 1, 2), (24, 1, 3), (8, 2, 1)]), st.integers(1, 7))
def test_items_are_every_segment_for_every_head_once(
    lengths: NDArray[np.int64], heads: tuple[int, int, int], programs: int
) -> None:
    count, groups, together = heads
    parts = ssd_tables.segments(lengths, CUT)
    table, offsets = ssd_tables.items(parts, count, groups, together, programs)
    assert offsets[0] == 0
    assert offsets[-1] == len(table)
    assert (np.diff(offsets) >= 0).all()
    wanted = sorted((*part[:2], head) for part in parts.tolist() for head in range(0, count, together))
    assert sorted((start, length, head) for start, length, _, head, *_ in table.tolist()) == wanted
    assert (table[:, 4] == table[:, 3] // (count // groups)).all()
