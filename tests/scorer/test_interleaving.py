"""Work that runs inside a progress callback, a scoring or a training, changes no result and is not changed itself."""

import dataclasses
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
import transformers as tf

from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.reference import Reference, load
from scorer.causal_lm.transformer import Transformer
from scorer.engine import batch_loader, executor
from scorer.engine.scoring import score
from scorer.errors import OutOfMemory
from scorer.training.presets import RECIPES, Mamba2Shape, Recipe
from scorer.training.train import train
from tests.scorer import mamba2_folders
from tests.scorer.model_folders import END, GPT2, PROSE, ROWS, add_tokenizer, make_folder, make_model

BLOCKS = [([PROSE[n % 50 :] * (n % 9) for n in range(start, start + 20)], start) for start in range(0, 60, 20)]
WORDS = PROSE.split()
CALLS = range(0, 20, 4)  # callbacks from the reading of the first block to the last batches
SMALL = Recipe(
    Mamba2Shape(hidden=64, layers=2, inner=64, state=8, tied=False),
    vocabulary=300,
    sequence=64,
    batch=4,
    budget=24_000,
    micro_cpu=2,
    micro_gpu=4,
    optimizer="adamw",
    learning_rate=1e-2,
    muon_learning_rates=(2e-2, 1e-2),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("gpt2")
    make_folder(folder, tf.GPT2Config(**GPT2))
    return dataclasses.replace(load(folder), budget=512)


@pytest.fixture(scope="module")
def packs(rows: Reference) -> Reference:
    return dataclasses.replace(rows, model=Transformer(make_model(tf.GPT2Config(**GPT2)), packs=True))


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("mamba2")
    config = Mamba2Config(vocab_size=ROWS, hidden=32, layers=2, heads=4, head_dim=16, state=8, groups=2)
    mamba2_folders.hugging_face(folder, config)
    add_tokenizer(folder, bos_token=END)
    return dataclasses.replace(load(folder), budget=512)


@pytest.fixture(autouse=True)
def _many_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callbacks also come while a batch is loaded, and while a CPU runs one."""
    for module in (batch_loader, executor):
        monkeypatch.setattr(module, "_WAIT_SECONDS", 1e-4)


def scores(reference: Reference, inside: Callable[[], object] = lambda: None, calls: Iterable[int] = CALLS) -> bytes:
    """The bits of the scores of BLOCKS; `inside` runs in the callbacks with these numbers."""
    number = count()

    def on_progress(_documents: int, _tokens: int) -> None:
        if next(number) in calls:
            inside()

    found = list(score(reference, BLOCKS, on_progress=on_progress))
    assert [tag for tag, *_ in found] == [tag for _, tag in BLOCKS]
    return b"".join(nll.tobytes() + n_tokens.tobytes() for _, nll, n_tokens, *_ in found)


def weights(folder: Path, inside: Callable[[], object] = lambda: None) -> bytes:
    """The bits of a small training's weights; `inside` runs in each callback."""

    def texts() -> Iterator[str]:
        draw = random.Random(0)
        for _ in range(60):
            yield " ".join(draw.choices(WORDS, k=30))

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", SMALL)
        train(texts, "tiny", 2_000, 0, folder / "model", folder / "work", "cpu", lambda *_: inside())
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("outer", ["rows", "packs", "recurrent"])
@pytest.mark.parametrize("inner", ["rows", "packs", "recurrent"])
def test_scoring_inside_scoring_changes_no_bit_of_either(
    outer: str, inner: str, request: pytest.FixtureRequest
) -> None:
    first, second = request.getfixturevalue(outer), request.getfixturevalue(inner)
    alone, second_alone = scores(first), scores(second)
    found: list[bytes] = []
    assert scores(first, lambda: found.append(scores(second))) == alone
    assert found
    assert set(found) == {second_alone}


def test_training_inside_scoring_changes_no_bit_of_either(recurrent: Reference, tmp_path: Path) -> None:
    alone, trained_alone = scores(recurrent), weights(tmp_path / "alone")
    found: list[bytes] = []
    assert scores(recurrent, lambda: found.append(weights(tmp_path / str(len(found)))), (0, 8)) == alone
    assert found == [trained_alone] * 2


@pytest.mark.parametrize("kind", ["packs", "recurrent"])
def test_scoring_inside_training_changes_no_bit_of_either(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    reference = request.getfixturevalue(kind)
    alone, trained_alone = scores(reference), weights(tmp_path / "alone")
    found: list[bytes] = []

    number = count()

    def inside() -> None:
        torch.rand(3)  # other work may draw random numbers
        if next(number) in CALLS:
            found.append(scores(reference))

    assert weights(tmp_path / "model", inside) == trained_alone
    assert len(found) >= 3
    assert set(found) == {alone}


def test_callbacks_run_on_the_callers_thread_in_its_torch_modes(recurrent: Reference, tmp_path: Path) -> None:
    def modes() -> tuple[object, ...]:
        return (
            threading.current_thread(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_num_threads(),
            torch.initial_seed(),
            torch.get_rng_state().numpy().tobytes(),
        )

    before = modes()
    found: list[tuple[object, ...]] = []
    scores(recurrent, lambda: found.append(modes()))
    weights(tmp_path, lambda: found.append(modes()))
    assert set(found) == {before} == {modes()}


def test_a_memory_error_of_work_inside_the_callback_is_not_taken_for_ones_own(recurrent: Reference) -> None:
    def fail() -> None:
        raise torch.OutOfMemoryError("of other work")

    with pytest.raises(torch.OutOfMemoryError, match="of other work"):
        scores(recurrent, fail)
    assert not issubclass(torch.OutOfMemoryError, OutOfMemory)
