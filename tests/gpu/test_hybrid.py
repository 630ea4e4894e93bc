"""On a GPU: hybrids over packs score as on the CPU, batched as alone, in parts as in one piece; their own kernels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kernels.gate import gated
from kernels.pack import Pack
from kernels.rotary import rotary_angles, rotate, rotate_reference
from scorer.causal_lm.budget import long_documents_per_pack
from scorer.causal_lm.reference import Dtype, load
from scorer.engine.batch_loader import Batch
from scorer.engine.executor import Executor
from tests.gpu.references import HYBRIDS, TEXTS, make_reference, per_token, sources
from tests.kernels.helpers import poisoned, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = [(torch.bfloat16, 5e-3), (torch.float16, 1e-3), (torch.float32, 1e-5)]


@pytest.fixture(scope="module", params=HYBRIDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hybrid")
    return make_reference(request.param, made / "model", made / "tokenizer.json")


@pytest.fixture(scope="module")
def on_cpu(folder: Path) -> np.ndarray:
    return per_token(load(folder, "cpu", "float32"), TEXTS)


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-4), ("bfloat16", 3e-2)])
def test_scores_are_those_of_the_cpu(folder: Path, on_cpu: np.ndarray, dtype: Dtype, close: float) -> None:
    reference = load(folder, "cuda", dtype)
    assert reference.model.packed
    assert np.abs(per_token(reference, TEXTS) - on_cpu).max() < close


@pytest.mark.parametrize(("dtype", "close"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_batched_is_alone(folder: Path, dtype: Dtype, close: float) -> None:
    reference = load(folder, "cuda", dtype)
    batched = per_token(reference, TEXTS)
    alone = np.concatenate([per_token(reference, [text]) for text in TEXTS])
    assert np.abs(batched - alone).max() < close


def test_a_document_of_several_contexts_goes_on_as_on_the_cpu(folder: Path) -> None:
    """20,000 tokens: on the GPU in one piece and in parts that carry states, on the CPU the first in other parts."""
    ids = torch.randint(0, 4000, (20_001,), generator=torch.Generator().manual_seed(0))

    def nll(device: str, sizes: list[int]) -> torch.Tensor:
        model, state, parts, end = load(folder, device, "float32").model, None, [], sum(sizes)
        inputs, targets = ids[:end].to(device).split(sizes), ids[1 : end + 1].to(device).split(sizes)
        for part, wanted in zip(inputs, targets, strict=True):
            found, state = model.nll(part, wanted, Pack.of([len(part)], device), state, keep_state=True)
            parts.append(found.cpu())
        return torch.cat(parts)

    whole = nll("cuda", [20_000])
    assert (nll("cuda", [1, 5952, 2047, 9000, 3000]) - whole).abs().max() < 1e-3
    on_cpu = nll("cpu", [3000, 2500])
    assert (on_cpu - whole[:5500]).abs().max() < 2e-3
    assert float(on_cpu.mean()) == pytest.approx(float(whole[:5500].mean()), abs=1e-5)


def test_long_documents_side_by_side_score_as_alone(folder: Path) -> None:
    reference = load(folder, "cuda")
    everything = "".join(sources(6_000_000))
    texts = [everything[at : at + 400_000 + 9_000 * (i % 7)] for i, at in enumerate(range(0, 5_000_000, 200_000))]
    long = reference.tokenizer.encode(texts).lengths > reference.budget // 2
    assert long.sum() > long_documents_per_pack(reference.budget)
    beside = per_token(reference, texts)
    alone = np.concatenate([per_token(reference, [text]) for text in texts])
    assert np.abs(beside - alone).max() < 2e-3
    assert per_token(reference, texts).tobytes() == beside.tobytes()


def test_nothing_is_waited_for_in_a_batch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load(folder, "cuda")
    texts = [*TEXTS, "".join(sources(1_500_000))]
    sums = Executor._sums

    def watched(self: Executor, batch: Batch) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return sums(self, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    per_token(reference, texts)  # what is compiled is compiled
    monkeypatch.setattr(Executor, "_sums", watched)
    per_token(reference, texts)


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("options", [{"width": 32}, {"width": 64, "interleaved": True}, {"width": 6}])
def test_rotary_positions(options: dict[str, Any], dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    rows = torch.randn(1001, 10, 64, device="cuda").to(dtype)
    angles = rotary_angles(torch.arange(1001, device="cuda") * 9973, options["width"], 10_000.0)
    found, wanted = rows.clone(), rows.double()
    rotate(found[:, :7], *angles, options.get("interleaved", False))
    rotate_reference(wanted[:, :7], *angles, options.get("interleaved", False))
    assert relative(found, wanted) < close
    assert torch.equal(found[:, 7:], rows[:, 7:])


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
def test_gate_of_an_mlp(dtype: torch.dtype, close: float) -> None:
    x = (3 * torch.randn(1001, 3000, device="cuda")).to(dtype)
    with poisoned():
        assert relative(gated(x), gated(x.double())) < close
