"""The table of a pack's blocks."""

from kernels.blocks import blocks_of
from kernels.pack import Pack


def test_blocks_start_at_documents_and_the_longest_come_first() -> None:
    assert blocks_of(Pack.of([3, 130, 64], "cpu"), 64).tolist() == [
        [3, 130, 128, 1],
        [3, 130, 64, 1],
        [3, 130, 0, 1],
        [133, 64, 0, 2],
        [0, 3, 0, 0],
    ]
