"""On a GPU: a proxy of an ablation has the same losses each time, killed or not."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from scorer.training.evaluation import Text
from scorer.training.presets import RECIPES
from scorer.training.proxy import Point, ProxySpec, train_proxy
from tests.gpu.test_training import GPT2

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SPEC = ProxySpec("nano", "adamw", tokens=100_000, distinct=100_000, rows=1_008, start=0, seed=1)


@pytest.fixture(autouse=True)
def compile_anew() -> Iterator[None]:
    yield
    torch.compiler.reset()


def test_losses_are_the_same_killed_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "nano", dataclasses.replace(GPT2, optimizer="adamw"))
    monkeypatch.setattr("scorer.training.proxy._SAVE_SECONDS", 0.0)
    monkeypatch.setattr("scorer.training.proxy._TELL_SECONDS", 0.0)
    tokens = np.tile(np.arange(0, 1_000, 3), 400)[:100_001].astype(np.uint16)
    texts = [Text(tokens[:300], 299), Text(tokens[:40], 5)]

    def run(work: Path, stop_after: int | None = None) -> list[Point]:
        work.mkdir(exist_ok=True)
        tokens.tofile(work / "tokens.bin")

        def progress(steps: int) -> None:
            if stop_after is not None and steps >= stop_after:
                raise KeyboardInterrupt

        return train_proxy(SPEC, texts, (0.25, 0.5, 1.0), work, "cuda", progress)

    whole = run(tmp_path / "whole")
    for stop in (5, 30):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", stop)
    for one, two in zip(whole, run(tmp_path / "killed"), strict=True):
        assert one.nll.tobytes() == two.nll.tobytes()
