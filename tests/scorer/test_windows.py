"""Windows: every target is scored once, contexts are within the limit, sums are those of the text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kernels.pack import IGNORED
from scorer.engine.windows import window_spans
from tests.scorer.counted_blocks import block_of, filled


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


def test_scores_are_sums_in_the_order_of_the_text() -> None:
    block = block_of([3, 0, 7], bos=9)
    windows = block.cut(4, None)
    assert not block.complete
    assert [block.add(w, float(10**w.number)) for w in reversed(windows)] == [False, False, True, True]
    assert block.complete
    assert np.array_equal(block.scores(), [1, np.nan, 1110], equal_nan=True)
    assert block.n_tokens.tolist() == [3, 0, 7]


def test_other_measures_are_added_up_over_windows_and_their_parts() -> None:
    block = block_of([7, 0, 3], bos=9)
    windows = block.cut(5, None)
    first, *others = windows
    head, tail = first.split(2)
    assert tail is not None
    block.add(head, 3.0, 5.0, 2.0, 0.0)
    block.add(tail, 20.0, 200.0, 11.0, 2.0)
    for window in others:
        block.add(window, 9.0, 81.0, 9.0, 1.0)
    found = block.surprisals()
    assert found.squares.tolist() == [286.0, 0.0, 81.0]
    assert found.largest.tolist() == [11.0, 0.0, 9.0]
    assert found.over.tolist() == [3.0, 0.0, 1.0]
