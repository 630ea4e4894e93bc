"""The train split is a seeded share of the documents; each row is decided independently."""

import numpy as np
import pytest

from pruner.corpus.train_split import in_split


def test_a_row_does_not_depend_on_other_rows() -> None:
    whole = in_split(7, 0.3, 5, 0, 1000)
    parts = [in_split(7, 0.3, 5, start, 100) for start in range(0, 1000, 100)]
    assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_the_fraction(fraction: float) -> None:
    n = 200_000
    share = in_split(0, fraction, 0, 0, n).mean()
    assert abs(share - fraction) < 5 * (fraction * (1 - fraction) / n) ** 0.5


def test_seeds_and_shards_draw_independently() -> None:
    n = 100_000
    draws = [in_split(seed, 0.5, shard, 0, n) for seed in (0, 1, 2**63) for shard in (0, 1, 2)]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert abs((one == other).mean() - 0.5) < 0.01


def test_a_larger_fraction_contains_a_smaller_one() -> None:
    small, large = in_split(1, 0.1, 0, 0, 1000), in_split(1, 0.2, 0, 0, 1000)
    assert not (small & ~large).any()


def test_the_draw_never_changes() -> None:
    # Trained references and selections of earlier versions depend on it.
    assert np.flatnonzero(in_split(0, 0.1, 0, 0, 64)).tolist() == [2, 21, 29, 31, 43, 50, 57]
