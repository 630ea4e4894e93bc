"""Windows and batches: every target once, contexts within the limit, batches within the budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.nll import IGNORED
from scorer.windows import Window, batches, cut, rows, token_budget


def spans(targets: int, context: int | None, stride: int | None = None) -> list[tuple[int, int, int]]:
    return [(w.start, w.first, w.stop) for w in cut(0, targets, context, stride)]


def test_a_document_of_one_window_more_or_less() -> None:
    assert spans(7, 8) == [(0, 0, 7)]
    assert spans(6, 8) == [(0, 0, 6)]
    assert spans(8, 8) == [(0, 0, 7), (7, 7, 8)]
    assert spans(14, 8) == [(0, 0, 7), (7, 7, 14)]


def test_no_limit_is_one_window_and_no_target_is_none() -> None:
    assert spans(1000, None) == [(0, 0, 1000)]
    assert spans(1000, None, 10) == [(0, 0, 1000)]
    assert spans(0, 8) == spans(0, None) == []


def test_a_stride_gives_later_windows_context() -> None:
    assert spans(10, 5, 2) == [(0, 0, 4), (2, 4, 6), (4, 6, 8), (6, 8, 10)]
    assert spans(9, 5, 3) == [(0, 0, 4), (3, 4, 7), (6, 7, 9)]


@given(st.integers(0, 200), st.integers(2, 40), st.data())
def test_every_target_is_scored_once(targets: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.none() | st.integers(1, context - 1))
    windows = list(cut(3, targets, context, stride))
    assert [i for w in windows for i in range(w.first, w.stop)] == list(range(targets))
    assert all(w.document == 3 and w.start <= w.first < w.stop and w.length <= context - 1 for w in windows)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_batches_hold_every_window_once_within_the_budget(lengths: list[int], budget: int) -> None:
    windows = [Window(i, 0, 0, n) for i, n in enumerate(lengths)]
    made = list(batches(windows, budget))
    assert sorted(i for batch in made for i in batch) == list(range(len(lengths)))
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    assert made == list(batches(windows, budget))


def test_rows_start_with_bos_and_pad_on_the_right() -> None:
    stream = np.array([9, 1, 2, 3, 4, 5], np.int32)  # 9 is BOS
    ids, targets = rows([Window(0, 0, 0, 3), Window(0, 3, 3, 5)], [stream], 9)
    assert ids.tolist() == [[9, 1, 2], [9, 4, 0]]
    assert targets.tolist() == [[1, 2, 3], [4, 5, IGNORED]]


def test_rows_without_bos_start_with_the_token_before() -> None:
    stream = np.array([1, 2, 3, 4, 5], np.int32)
    ids, targets = rows([Window(0, 0, 0, 2), Window(0, 2, 2, 4)], [stream], None)
    assert ids.tolist() == [[1, 2], [3, 4]]
    assert targets.tolist() == [[2, 3], [4, 5]]


def test_what_a_window_before_has_scored_is_context() -> None:
    stream = np.array([9, 1, 2, 3, 4, 5], np.int32)
    ids, targets = rows([Window(0, 1, 3, 5)], [stream], 9)
    assert ids.tolist() == [[9, 2, 3, 4]]
    assert targets.tolist() == [[IGNORED, IGNORED, 4, 5]]


@pytest.mark.parametrize("parameters", [1, 4_000_000, 130_000_000, 7_000_000_000])
def test_a_cpu_batch_is_smaller_than_a_gpu_one_and_never_empty(parameters: int) -> None:
    assert 1 < token_budget(False, parameters) < token_budget(True, parameters)
