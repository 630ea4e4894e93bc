"""On a GPU: a compiled training has the same weights each time, killed or not, and the gradients of plain torch."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scorer.training import loop
from scorer.training.batches import Batches
from scorer.training.micro_step import Gradients, MicroStep
from scorer.training.presets import RECIPES, Gpt2Shape, Mamba2Shape, Recipe
from scorer.training.train import OnProgress, train
from tests.gpu.references import sources
from tests.kernels.helpers import relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

GPT2 = Recipe(
    Gpt2Shape(hidden=128, layers=2, heads=2),
    vocabulary=1000,
    sequence=256,
    batch=8,
    budget=100_000,
    micro_cpu=1,
    micro_gpu=4,
    optimizer="muon",
    learning_rate=1e-3,
    muon_learning_rates=(4e-3, 1e-3),
)
MAMBA2 = Recipe(
    Mamba2Shape(hidden=64, layers=2, inner=128, state=16),
    vocabulary=1000,
    sequence=256,
    batch=8,
    budget=100_000,
    micro_cpu=1,
    micro_gpu=4,
    optimizer="muon",
    learning_rate=1e-3,
    muon_learning_rates=(4e-3, 1e-3),
)


class Killed(Exception):
    pass


@pytest.fixture(autouse=True)
def compile_anew() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("recipe", [GPT2, MAMBA2], ids=["gpt2", "mamba2"])
def test_weights_are_the_same_killed_or_not(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    clock = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=clock.__next__))  # a checkpoint after every 22 steps

    def run(name: str, on_progress: OnProgress = lambda *_: None) -> bytes:
        torch.compiler.reset()  # as in another process
        out, work = tmp_path / name, tmp_path / f"{name} work"
        train(lambda: sources(400_000), "tiny", 100_000, 0, out, work, "cuda", on_progress)
        return (out / "model.safetensors").read_bytes()

    seen: list[int] = []

    def die(done: int, _total: int, _loss: float | None, _heldout: float | None) -> None:
        seen.append(done)
        if done > 60_000 and not (tmp_path / "dead").exists():
            (tmp_path / "dead").touch()
            raise Killed

    expected = run("unkilled")
    with pytest.raises(Killed):
        run("killed", die)
    seen.clear()
    assert run("killed", die) == expected
    assert min(done for done in seen if done) > 10_000  # it went on


def test_gradients_are_those_of_float32(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 200, 20_000).astype(np.uint16)
    gradients = []
    for device in ("cuda", "cpu"):
        torch.manual_seed(0)
        model = GPT2.build(1000)
        model.module.to(device)
        parameters = list(model.module.parameters())
        batches, held = Batches(tokens, 256, 4, 0, 0), Gradients(parameters, device)
        step = MicroStep(model, held, batches.layout, 0.5, device)
        for number in (0, 4):
            step(batches.vector(number))
        gradients.append(([p.grad.cpu() for p in parameters if p.grad is not None], step.loss.item()))
    (found, loss), (expected, exact) = gradients
    assert loss == pytest.approx(exact, rel=1e-3)
    assert relative(torch.cat([g.flatten() for g in found]), torch.cat([g.flatten() for g in expected])) < 2e-2
