"""Windows, packs and rows: every target once, contexts within the limit, batches within the budget, one fixed rule."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.pack import IGNORED
from kernels.ssd_tables import CHUNK, CUT
from scorer.causal_lm import budget as budgets
from scorer.causal_lm.budget import halved, token_budget
from scorer.engine import packing
from scorer.engine.packing import batches
from scorer.engine.windows import TokenizedBlock, Window, window_spans
from scorer.tokenizer.backends import Encoded

LENGTHS = st.lists(st.integers(0, 50), max_size=60)


def block_of(lengths: list[int], bos: int | None = None) -> TokenizedBlock:
    """Documents whose ids count on from 10, and from the last of the one before."""
    edges = np.cumsum([10, *lengths])
    return TokenizedBlock(Encoded.of([range(a, b) for a, b in pairwise(edges.tolist())]), bos)


def filled(window: Window) -> tuple[list[int], list[int]]:
    ids, targets = np.zeros(window.length, np.int64), np.zeros(window.length, np.int64)
    window.block.fill(window, ids, targets, IGNORED)
    return ids.tolist(), targets.tolist()


def test_a_document_of_one_window_more_or_less() -> None:
    assert list(window_spans(7, 8, None)) == [(0, 0, 7)]
    assert list(window_spans(6, 8, None)) == [(0, 0, 6)]
    assert list(window_spans(8, 8, None)) == [(0, 0, 7), (7, 7, 8)]
    assert list(window_spans(14, 8, None)) == [(0, 0, 7), (7, 7, 14)]


def test_no_limit_is_one_window_and_no_target_is_none() -> None:
    assert list(window_spans(1000, None, None)) == [(0, 0, 1000)]
    assert list(window_spans(1000, None, 10)) == [(0, 0, 1000)]
    assert list(window_spans(0, 8, None)) == list(window_spans(0, None, None)) == []


def test_a_stride_gives_later_windows_context() -> None:
    assert list(window_spans(10, 5, 2)) == [(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    assert list(window_spans(9, 5, 3)) == [(0, 0, 4), (3, 4, 7), (6, 7, 9)]


@given(st.integers(0, 200), st.integers(2, 40), st.data())
def test_every_target_is_scored_once(targets: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.none() | st.integers(1, context - 1))
    spans = list(window_spans(targets, context, stride))
    assert [i for _, first, stop in spans for i in range(first, stop)] == list(range(targets))
    assert all(start <= first < stop <= start + context - 1 for start, first, stop in spans)


def test_windows_start_with_bos_or_with_the_token_before() -> None:
    with_bos = [filled(w) for w in block_of([2, 5], bos=9).cut(4, None)]
    assert with_bos == [([9, 10], [10, 11]), ([9, 12, 13], [12, 13, 14]), ([9, 15], [15, 16])]
    without = [filled(w) for w in block_of([1, 5]).cut(3, None)]
    assert without == [([11, 12], [12, 13]), ([13, 14], [14, 15])]


def test_what_a_window_before_has_scored_is_context() -> None:
    ids = [filled(w) for w in block_of([5], bos=9).cut(5, 2)]
    assert ids == [([9, 10, 11, 12], [10, 11, 12, 13]), ([9, 12, 13], [IGNORED, IGNORED, 14])]


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


def test_scores_are_sums_in_the_order_of_the_text() -> None:
    block = block_of([3, 0, 7], bos=9)
    windows = block.cut(4, None)
    assert not block.complete
    assert [block.add(w, float(10**w.number)) for w in reversed(windows)] == [False, False, True, True]
    assert block.complete
    assert np.array_equal(block.scores(), [1, np.nan, 1110], equal_nan=True)
    assert block.n_tokens.tolist() == [3, 0, 7]


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
            edges = np.cumsum([at, *part])
            block = TokenizedBlock(Encoded.of([range(a, b) for a, b in pairwise(edges.tolist())]), 9)
            windows += block.cut(None if recurrent else 40, None)
            at = int(edges[-1])
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


@pytest.mark.parametrize("parameters", [1, 4_000_000, 130_000_000, 7_000_000_000])
def test_a_cpu_batch_is_smaller_than_a_gpu_one_and_never_empty(parameters: int) -> None:
    assert 1 < token_budget(False, parameters, False) < token_budget(True, parameters, False)


def test_a_budget_is_halved_until_that_would_not_help() -> None:
    budget, seen = token_budget(True, 1, True), []
    while budget is not None:
        seen.append(budget)
        budget = halved(budget)
    assert seen == [1 << i for i in range(17, 9, -1)]
