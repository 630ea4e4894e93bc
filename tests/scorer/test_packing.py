"""Batches: every window once, within the budget, by one fixed rule that does not depend on blocks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.ssd_tables import CHUNK, CUT
from scorer.causal_lm import budget as budgets
from scorer.engine import packing
from scorer.engine.packing import batches
from tests.scorer.counted_blocks import block_of, filled

LENGTHS = st.lists(st.integers(0, 50), max_size=60)


@given(st.lists(st.integers(1, 3000), max_size=20), st.sampled_from([256, 512, 1024]), st.booleans(), st.data())
def test_long_documents_of_a_recurrent_model_are_carried_on(
    lengths: list[int], budget: int, packed: bool, data: st.DataObject
) -> None:
    """From one batch to a later one, at whole chunks of the kernels, to the end; shorter ones are not cut."""
    part, passed = data.draw(st.sampled_from([64, 128, 5952])), data.draw(st.sampled_from([2000, 1 << 24]))
    block = block_of(lengths, bos=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budgets, "_PART", part)
        patch.setattr(packing, "_LONG_WAIT", passed)
        made = list(batches(block.cut(None, None), budget, packed, recurrent=True))
    at = [0] * len(lengths)
    for batch in made:
        assert len({w.number for w in batch}) == len(batch)
        size = sum(w.length for w in batch) if packed else len(batch) * max(w.length for w in batch)
        assert size <= budget
        for w in batch:
            assert w.start == w.first == at[w.document]
            assert w.carried == (w.start > 0)
            assert w.more == (w.stop < lengths[w.document])
            assert w.start % 64 == 0
            assert lengths[w.document] > budget // 2 or w.length == lengths[w.document]
            ids, targets = filled(w)
            assert ids == ([targets[0] - 1] if w.carried else [9]) + targets[:-1]  # no BOS, but the token before
            at[w.document] = w.stop
    assert at == lengths


def test_long_documents_lie_side_by_side() -> None:
    lengths = np.random.default_rng(0).integers(66_000, 300_000, 100).tolist()
    made = list(batches(block_of(lengths, bos=9).cut(None, None), 131_072, packed=True, recurrent=True))
    beside = [batch for batch in made if len(batch) == 22]
    assert sum(w.length for batch in beside for w in batch) > 0.75 * sum(lengths)
    assert max(w.length for batch in beside for w in batch) == 5952
    assert max(w.length for batch in beside for w in batch) <= CUT.segment  # so the SSD cuts none of them
    assert packing._CHUNK == CHUNK  # written again there, for what is imported without torch
    assert len(made) < 1.02 * sum(lengths) / 131_072 + 1


@pytest.mark.parametrize("packed", [False, True])
@given(LENGTHS, st.integers(1, 120))
def test_batches_hold_every_window_once_within_the_budget(packed: bool, lengths: list[int], budget: int) -> None:
    windows = list(block_of(lengths, bos=9).cut(40, None))
    made = list(batches(windows, budget, packed, recurrent=False))
    assert sorted(w.number for batch in made for w in batch) == list(range(len(windows)))
    for batch in made:
        size = sum(w.length for w in batch) if packed else len(batch) * max(w.length for w in batch)
        assert len(batch) == 1 or size <= budget
        assert [w.length for w in batch] == sorted((w.length for w in batch), reverse=True)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("recurrent", [False, True])
def test_batches_do_not_depend_on_blocks(packed: bool, recurrent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "_PART", 64)
    lengths = np.random.default_rng(0).integers(0, 300, 500).tolist()

    def batches_of(sizes: int) -> list[list[tuple[list[int], list[int]]]]:
        windows = []
        at = 10
        for start in range(0, len(lengths), sizes):
            part = lengths[start : start + sizes]
            windows += block_of(part, bos=9, first=at).cut(None if recurrent else 40, None)
            at += sum(part)
        return [[filled(w) for w in batch] for batch in batches(windows, 256, packed, recurrent)]

    assert batches_of(500) == batches_of(7) == batches_of(1)


def test_next_to_nothing_of_a_pack_is_left_empty() -> None:
    lengths = np.random.default_rng(0).lognormal(6, 1.2, 20_000).astype(int).clip(1, 30_000).tolist()
    made = list(batches(block_of(lengths, bos=9).cut(None, None), 65_536, packed=True, recurrent=True))
    assert len(made) > 100
    assert sum(lengths) / (len(made) * 65_536) > 0.99


def test_no_window_waits_for_the_end_of_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the blocks of a shard of long documents stay in memory behind one that fits to no other."""
    monkeypatch.setattr(packing, "_PACK_WAIT", 1000)
    windows = block_of([51] * 8 + [60] * 500, bos=9).cut(None, None)
    made = list(batches(windows, 100, packed=True, recurrent=False))
    assert set(range(8)) <= {w.number for batch in made[:60] for w in batch}
