"""Proxies of ablations: bit-equal repeats, also after a kill; branches that are shorter runs; measured texts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from scorer.training.batches import Layout
from scorer.training.evaluation import EvaluationRows, Text
from scorer.training.presets import RECIPES, Gpt2Shape
from scorer.training.proxy import Point, ProxySpec, schedule_of, steps_of, train_proxy
from tests.scorer.test_train import GPT2

SHARES = (0.25, 0.5, 1.0)
SPEC = ProxySpec("nano", None, tokens=20_000, distinct=20_000, rows=64, start=0, seed=3)
TEXTS = [Text(np.array([0, 5, 6, 7, 8, 9], np.uint16), 5), Text(np.array([0, 5, 6, 40], np.uint16), 1)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "nano", dataclasses.replace(GPT2, optimizer="adamw"))


def run(work: Path, spec: ProxySpec = SPEC, stop_after: int | None = None) -> list[Point]:
    """Trains on counting numbers, in documents of 40 tokens."""
    work.mkdir(exist_ok=True)
    draw = np.random.default_rng(0)
    tokens = np.concatenate([[0, *((np.arange(39) + draw.integers(60)) % 60 + 1)] for _ in range(501)])
    tokens.astype(np.uint16).tofile(work / "tokens.bin")

    def progress(steps: int) -> None:
        if stop_after is not None and steps >= stop_after:
            raise KeyboardInterrupt

    return train_proxy(spec, TEXTS, SHARES, work, "cpu", progress)


def test_branches_are_ends_of_shorter_runs_and_a_killed_run_gives_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    assert [point.tokens for point in whole] == [5_120, 10_240, 20_000]
    likely, wrong = zip(*(point.nll for point in whole), strict=True)
    assert likely[0] > likely[1] > likely[2]  # it learns to count
    assert wrong[2] > 3  # and that 40 does not follow 6
    monkeypatch.setattr("scorer.training.proxy._SAVE_SECONDS", 0.0)
    monkeypatch.setattr("scorer.training.proxy._TELL_SECONDS", 0.0)
    steps = steps_of(schedule_of(SPEC, "cpu"), SHARES)
    for stop in (3, steps // 4, steps // 2, steps - 2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", stop_after=stop)
    resumed = run(tmp_path / "killed")
    assert [point.nll.tobytes() for point in resumed] == [point.nll.tobytes() for point in whole]
    slower = run(tmp_path / "slower", dataclasses.replace(SPEC, factor=1 / 16))
    assert slower[2].nll[0] > whole[2].nll[0]


def test_texts_are_scored_whole_and_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Gpt2Shape(hidden=32, layers=1, heads=2)(64)
    draw = np.random.default_rng(0)
    documents = [np.array([0, *draw.integers(1, 60, size)], np.uint16) for size in (3, 30, 11, 40, 7)]
    texts = [Text(tokens, len(tokens) - 1) for tokens in documents] + [Text(documents[1], 4)]
    together = EvaluationRows(texts, Layout(2, 16), 0).nll(model, "cpu", lambda: None)
    alone = [EvaluationRows([text], Layout(1, 16), 0).nll(model, "cpu", lambda: None)[0] for text in texts]
    assert together == pytest.approx(alone, rel=1e-5)
    assert (together[:5] > [3 * len(tokens) for tokens in documents]).all()  # nothing is left out: log 64 is 4.2
    assert 3 * 4 < together[5] < 6 * 4  # the answer alone
