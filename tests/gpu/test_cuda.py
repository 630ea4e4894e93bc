"""On a GPU: the scores of the CPU, in float32 closely and in bfloat16 about; batched as alone; a few training steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scorer.reference import Dtype, Reference, load
from scorer.scorer import score
from scorer.train import train
from tests.gpu.references import make_reference, sources

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

PRESETS = ["tiny", "mamba2-130m", "gpt2-124m"]
TEXTS = [*[text[:3000] for text in sources(200_000) if text][:12], "x", "", "a <|endoftext|> b"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"


@pytest.fixture(scope="module", params=PRESETS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    return make_reference(request.param, tmp_path_factory.mktemp("reference"), tokenizer)


def per_token(reference: Reference, texts: list[str]) -> np.ndarray:
    """NLL a token of the texts that have any."""
    ((nll, n_tokens),) = score(reference, [texts], on_progress=lambda *_: None)
    return (nll / np.maximum(n_tokens, 1))[n_tokens > 0]


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_scores_are_those_of_the_cpu(folder: Path, dtype: Dtype, close: float) -> None:
    on_cpu = per_token(load(folder, "cpu", "float32"), TEXTS)
    on_gpu = per_token(load(folder, "cuda", dtype), TEXTS)
    assert np.abs(on_gpu - on_cpu).max() < close


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_batched_is_alone(folder: Path, dtype: Dtype, close: float) -> None:
    reference = load(folder, "cuda", dtype)
    batched = per_token(reference, TEXTS)
    alone = np.concatenate([per_token(reference, [text]) for text in TEXTS])
    assert np.abs(batched - alone).max() < close


def test_the_same_block_gives_the_same_bits(folder: Path) -> None:
    reference = load(folder, "cuda")
    assert reference.dtype == "bfloat16"
    assert reference.provenance()["device"] == torch.cuda.get_device_name()
    assert per_token(reference, TEXTS).tobytes() == per_token(reference, TEXTS).tobytes()


def test_a_long_document(folder: Path) -> None:
    """Longer than a batch, so that a recurrent state is carried on."""
    text = "".join(sources(600_000))
    on_gpu = per_token(load(folder, "cuda", "bfloat16"), [text])
    assert np.isfinite(on_gpu).all()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_few_steps_of_training(preset: str, tmp_path: Path) -> None:
    losses: list[float] = []

    def on_progress(_done: int, _total: int, loss: float | None) -> None:
        if loss is not None:
            losses.append(loss)

    tokens = 3_000 if preset == "tiny" else 400_000
    out = tmp_path / "out"
    train(lambda: sources(2_000_000), preset, tokens, 0, out, tmp_path / "work", "cuda", on_progress)
    assert np.isfinite(losses).all()
    assert np.isfinite(per_token(load(out, "cuda"), TEXTS)).all()
