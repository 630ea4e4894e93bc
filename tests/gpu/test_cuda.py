"""On a GPU: the scores of the CPU, in float32 closely and in bfloat16 about; batched as alone; a few training steps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kernels.pack import Pack
from scorer.causal_lm.budget import long_documents_per_pack
from scorer.causal_lm.reference import Dtype, Reference, load
from scorer.engine import batch_loader
from scorer.engine.batch_loader import Batch
from scorer.engine.executor import Executor, window_sums
from scorer.engine.scoring import score
from scorer.training.names import Preset
from scorer.training.train import OnProgress, train
from tests.gpu.references import TEXTS, make_reference, per_token, sources

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


REFERENCES: tuple[Preset, ...] = ("tiny", "mamba2-130m", "gpt2-124m")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"


@pytest.fixture(scope="module", params=REFERENCES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    return make_reference(request.param, tmp_path_factory.mktemp("reference"), tokenizer)


@pytest.fixture(scope="module")
def on_cpu(folder: Path) -> np.ndarray:
    return per_token(load(folder, "cpu", "float32"), TEXTS)


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_scores_are_those_of_the_cpu(folder: Path, on_cpu: np.ndarray, dtype: Dtype, close: float) -> None:
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
    assert "triton" in reference.provenance()["versions"]
    assert per_token(reference, TEXTS).tobytes() == per_token(reference, TEXTS).tobytes()


def test_tokenizing_threads_and_earlier_scorings_change_no_bit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load(folder, "cuda")
    texts = [text[:20_000] for text in sources(3_000_000) if text]

    def bits(tokenizing: int, size: int) -> bytes:
        monkeypatch.setattr(batch_loader, "_TOKENIZING", tokenizing)
        blocks = [(texts[i : i + size], None) for i in range(0, len(texts), size)]
        return b"".join(nll.tobytes() for _, nll, *_ in score(reference, blocks, on_progress=lambda *_: None))

    first = bits(1, len(texts))
    per_token(reference, TEXTS)
    assert bits(4, 7) == bits(4, len(texts)) == first


def test_work_inside_the_progress_callback_changes_no_bit(folder: Path, tmp_path: Path) -> None:
    """A scoring inside a scoring, and a scoring inside a training."""
    reference = load(folder, "cuda")
    texts = [text[:20_000] for text in sources(2_000_000) if text]
    alone, few_alone = per_token(reference, texts), per_token(reference, TEXTS)
    found: list[bytes] = []

    def inside(*_counts: object) -> None:
        if len(found) < 5:
            found.append(per_token(reference, TEXTS).tobytes())

    ((_, nll, n_tokens, *_),) = score(reference, [(texts, None)], on_progress=inside)
    assert (nll / np.maximum(n_tokens, 1))[n_tokens > 0].tobytes() == alone.tobytes()
    assert set(found) == {few_alone.tobytes()}

    def trained(name: str, on_progress: OnProgress) -> bytes:
        out = tmp_path / name
        train(lambda: sources(200_000), "tiny", 20_000, 0, out, tmp_path / f"{name} work", "cuda", on_progress)
        return (out / "model.safetensors").read_bytes()

    found.clear()
    undisturbed = trained("alone", lambda *_: None)
    assert trained("disturbed", inside) == undisturbed
    assert set(found) == {few_alone.tobytes()}


def under_budgets(reference: Reference, texts: list[str]) -> list[np.ndarray]:
    """NLL a token with packs of 8, 64 and 256 thousand tokens."""
    found = []
    for budget in (1 << 13, 1 << 16, 1 << 18):
        reference.budget = budget
        reference.prepare()
        found.append(per_token(reference, texts))
    return found


def test_budgets_change_scores_by_rounding_alone(folder: Path) -> None:
    first, *others = under_budgets(load(folder, "cuda"), [text[:20_000] for text in sources(3_000_000) if text])
    for other in others:
        assert np.abs(other - first).max() < 2e-3


@pytest.mark.skipif(not ON_HOPPER, reason="elsewhere a library multiplies, in a way that depends on the pack")
def test_budgets_change_no_bit_of_a_document_that_fits(tmp_path: Path, tokenizer: Path) -> None:
    reference = load(make_reference("mamba2-130m", tmp_path, tokenizer), "cuda")
    first, *others = under_budgets(reference, [text[:5000] for text in sources(3_000_000) if text])
    assert [other.tobytes() for other in others] == [first.tobytes()] * 2


def test_nothing_is_waited_for_in_a_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load(folder, "cuda")
    sums = Executor._sums

    def watched(self: Executor, batch: Batch) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return sums(self, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    per_token(reference, TEXTS)  # what is compiled is compiled
    monkeypatch.setattr(Executor, "_sums", watched)
    per_token(reference, TEXTS)


def test_sums_of_windows_are_those_of_the_cpu() -> None:
    lengths = [1, 7, 1024, 3, 40_000, 2, 511]
    nll = 20 * torch.rand(sum(lengths), generator=torch.Generator().manual_seed(0)) ** 8
    wanted = window_sums(nll, Pack.of(lengths, "cpu"))
    assert torch.equal(window_sums(nll.cuda(), Pack.of(lengths, "cuda")).cpu(), wanted)


def test_a_transformer_reads_full_compiled_packs(tmp_path: Path, tokenizer: Path) -> None:
    reference = load(make_reference("gpt2-124m", tmp_path, tokenizer), "cuda")
    assert reference.model.packed
    assert reference.model.full_packs


def test_too_little_memory_is_found_out_at_loading(tmp_path: Path, tokenizer: Path) -> None:
    made = make_reference("gpt2-124m", tmp_path, tokenizer)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(1.2e9 / total)
    try:
        reference = load(made, "cuda")
        assert 1024 <= reference.budget < 65_536
        assert np.isfinite(per_token(reference, TEXTS)).all()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_long_document(folder: Path) -> None:
    """Longer than a batch, so that a recurrent state is carried on."""
    text = "".join(sources(600_000))
    on_gpu = per_token(load(folder, "cuda", "bfloat16"), [text])
    assert np.isfinite(on_gpu).all()


def test_long_documents_side_by_side_score_as_alone(tmp_path: Path, tokenizer: Path) -> None:
    reference = load(make_reference("mamba2-130m", tmp_path, tokenizer), "cuda")
    everything = "".join(sources(8_000_000))
    starts = range(0, len(everything) - 320_000, 160_000)
    texts = [everything[at : at + 260_000 + 9_000 * (i % 7)] for i, at in enumerate(starts)]
    long = reference.tokenizer.encode(texts).lengths > reference.budget // 2
    assert long.sum() > long_documents_per_pack(reference.budget)
    beside = per_token(reference, texts)
    alone = np.concatenate([per_token(reference, [text]) for text in texts])
    assert np.abs(beside - alone).max() < 2e-3
    assert per_token(reference, texts).tobytes() == beside.tobytes()


@pytest.mark.parametrize("preset", [*REFERENCES, "10m"])
def test_a_few_steps_of_training(preset: Preset, tmp_path: Path) -> None:
    losses: list[float] = []

    def on_progress(_done: int, _total: int, loss: float | None, _heldout: float | None) -> None:
        if loss is not None:
            losses.append(loss)

    tokens = 3_000 if preset == "tiny" else 60_000
    out = tmp_path / "out"
    train(lambda: sources(2_000_000), preset, tokens, 0, out, tmp_path / "work", "cuda", on_progress)
    assert np.isfinite(losses).all()
    assert np.isfinite(per_token(load(out, "cuda"), TEXTS)).all()
