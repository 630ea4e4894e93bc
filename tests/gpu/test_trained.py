"""On a GPU: what bfloat16 does to the scores of a reference that has learnt something, on text that it has not seen."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from scorer.causal_lm.reference import Dtype, load
from scorer.engine.scoring import score
from scorer.training.presets import RECIPES, Mamba2Shape, Recipe
from scorer.training.train import train
from tests.gpu.references import sources

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

STEPS = 250


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64)


def test_bfloat16_keeps_scores_and_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = STEPS * 16 * 1024
    recipe = Recipe(
        Mamba2Shape(hidden=512, layers=8, inner=1024, state=128),
        vocabulary=8192,
        sequence=1024,
        batch=16,
        budget=tokens,
        micro_cpu=1,
        micro_gpu=16,
        optimizer="adamw",
        learning_rate=2e-3,
        muon_learning_rates=(4e-3, 2e-3),
    )
    monkeypatch.setitem(RECIPES, "small", recipe)
    texts = [text for text in sources(60_000_000) if text]
    seen, unseen = texts[::2], texts[1::2]
    losses: list[float] = []

    def on_progress(_done: int, _total: int, loss: float | None, _heldout: float | None) -> None:
        if loss is not None:
            losses.append(loss)

    train(lambda: iter(seen), "small", tokens, 0, tmp_path / "out", tmp_path / "work", "cuda", on_progress)
    assert np.mean(losses[-20:]) < losses[0] / 2  # it has learnt something

    def per_token(dtype: Dtype) -> np.ndarray:
        reference = load(tmp_path / "out", "cuda", dtype)
        ((_, nll, n_tokens, *_),) = score(reference, [(unseen, None)], on_progress=lambda *_: None)
        return (nll / np.maximum(n_tokens, 1))[n_tokens > 1]

    wide, narrow = per_token("float32"), per_token("bfloat16")
    off, order = np.abs(narrow / wide - 1).max(), np.corrcoef(ranks(wide), ranks(narrow))[0, 1]
    halves = np.argsort(wide)[: len(wide) // 2], np.argsort(narrow)[: len(narrow) // 2]
    sys.stdout.write(
        f"\n{len(wide)} documents, loss {losses[0]:.2f} to {np.mean(losses[-20:]):.2f}: bfloat16 at most {off:.2%} off "
        f"a document, Spearman {order:.6f}, {len(np.intersect1d(*halves)) / len(halves[0]):.2%} of a half in common\n"
    )
    assert off < 0.005
    assert order > 0.9995
