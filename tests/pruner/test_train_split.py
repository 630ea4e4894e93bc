"""The train split is a seeded share of the documents; each row is decided independently, by its place in its file."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus import plan as plans
from pruner.corpus.plan import make_plan
from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.spec import CorpusSpec
from tests.pruner.test_sample import split


def drawn(seed: int, fraction: float, n: int, file: int = 0, first_row: int = 0) -> np.ndarray:
    """The draws of the first rows of a shard that begins a file, or at a row of it."""
    return in_split(Split(seed, fraction), ShardRows(file, first_row), np.zeros(n, np.int32), np.arange(n))


def test_a_row_does_not_depend_on_other_rows() -> None:
    whole = drawn(7, 0.3, 1000, file=5)
    parts = [drawn(7, 0.3, 100, file=5, first_row=start) for start in range(0, 1000, 100)]
    assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_the_fraction(fraction: float) -> None:
    n = 200_000
    share = drawn(0, fraction, n).mean()
    assert abs(share - fraction) < 5 * (fraction * (1 - fraction) / n) ** 0.5


def test_seeds_files_and_ranges_draw_independently() -> None:
    n = 100_000
    draws = [drawn(seed, 0.5, n, file) for seed in (0, 1, 2**63) for file in (0, 1, 2)]
    nothing = np.zeros(n, np.int32), np.arange(n)
    ranges = [ShardRows(file, start=start) for file in (0, 1) for start in (1, 1 << 27)]
    draws += [in_split(Split(0, 0.5), shard, *nothing) for shard in ranges]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert abs((one == other).mean() - 0.5) < 0.01


def test_a_larger_fraction_contains_a_smaller_one() -> None:
    small, large = drawn(1, 0.1, 1000), drawn(1, 0.2, 1000)
    assert not (small & ~large).any()


def test_the_draw_never_changes() -> None:
    # Trained references and selections of earlier versions depend on it.
    assert np.flatnonzero(drawn(0, 0.1, 64)).tolist() == [2, 21, 29, 31, 43, 50, 57]


def test_the_split_does_not_depend_on_how_files_are_cut_and_gathered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in range(6):
        texts = [f"{file} {row} " + "word " * 40 for row in range(200)]
        if file < 2:
            pq.write_table(pa.table({"text": texts}), tmp_path / f"{file}.parquet", row_group_size=30, compression=None)
        else:
            (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    spec = CorpusSpec(paths=[str(tmp_path)])
    monkeypatch.setattr(plans, "SHARD_BYTES", 1 << 24)
    few = make_plan(spec)
    monkeypatch.setattr(plans, "SHARD_BYTES", 50_000)  # a text file is whole in it, a Parquet file is not
    monkeypatch.setattr(plans, "SHARD_BYTES_MAX", 100_000)
    many = make_plan(spec)
    assert len(few.shards) < 4 < len(many.shards)
    drawn_of_few = split(few, spec, 0.4, 3)
    assert drawn_of_few == split(many, spec, 0.4, 3)
    assert 400 < len(drawn_of_few) < 560
