"""On two GPUs: a training that they share has the same weights each time, killed or not, and nearly the loss of one."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from scorer.errors import ProcessDied
from scorer.training import loop
from scorer.training.presets import RECIPES
from scorer.training.train import OnProgress, train
from tests.gpu.references import sources
from tests.gpu.test_training import GPT2, Killed, compile_anew  # noqa: F401

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")]


def run(folder: Path, on_progress: OnProgress = lambda *_: None, *, processes: int = 2) -> Path:
    torch.compiler.reset()
    work = folder.with_name(f"{folder.name} work")
    train(
        lambda: sources(400_000), "tiny", 100_000, 0, folder, work, "cuda", on_progress, processes=processes
    )  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "tiny", GPT2)
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)


def test_weights_are_the_same_killed_or_not(tmp_path: Path) -> None:
    def die(done: int, _total: int, _loss: float | None, _heldout: float | None) -> None:
        if done > 60_000:
            raise Killed

    expected = (run(tmp_path / "whole") / "model.safetensors").read_bytes()
    with pytest.raises(Killed):
        run(tmp_path / "killed", die)
    assert multiprocessing.active_children() == []
    assert (run(tmp_path / "killed") / "model.safetensors").read_bytes() == expected
    found = [
        json.loads((folder / "training.json").read_text())["heldout_bits_per_byte"]
        for folder in (tmp_path / "whole", run(tmp_path / "alone", processes=1))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-2)


def test_the_death_of_a_process_ends_the_training(tmp_path: Path) -> None:
    def shoot(done: int, _total: int, _loss: float | None, _heldout: float | None) -> None:
        if done > 30_000:
            for child in multiprocessing.active_children():
                child.kill()

    with pytest.raises(ProcessDied):
        run(tmp_path / "model", shoot)
