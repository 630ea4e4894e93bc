"""On a Hopper GPU: 8-bit rows, products and NLL head against their references, the same bits twice; and loading."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kernels import fp8, tiles_hopper
from kernels.e4m3 import Fp8Rows
from kernels.fp8 import add_linear8, linear8, quantize_normed, quantize_rows, quantize_weight, scaled_product
from kernels.nll import token_nll
from kernels.nll_fp8 import quantize_head, token_nll8
from kernels.norm import row_scale, row_squares
from scorer.causal_lm import fp8_trial
from scorer.causal_lm.reference import load
from scorer.engine.scoring import score
from scorer.errors import BadReference
from scorer.training.names import Preset
from scorer.training.train import train
from tests.gpu.references import make_reference, sources
from tests.kernels.helpers import poisoned, relative

ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not ON_HOPPER, reason="no Hopper GPU")]


@pytest.fixture(params=["chosen", "portable"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "portable":
        monkeypatch.setattr(tiles_hopper, "supports8", lambda *_: False)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").to(dtype)


def on_cpu(rows: Fp8Rows) -> Fp8Rows:
    return Fp8Rows(rows.values.cpu(), rows.scale.cpu(), rows.n_rows)


# -- rows
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "width"), [(1, 16), (130, 100), (1000, 768), (3, 5000)])
def test_rows_are_those_of_the_reference(rows: int, width: int, dtype: torch.dtype) -> None:
    x = draw(rows, width + 8, dtype=dtype)[:, 8:]
    x[0] = 0
    scale = row_scale(row_squares(x.contiguous()), width, 1e-5)
    with poisoned():
        found = quantize_rows(x, 64, 128), quantize_normed(x, scale)
    for made, wanted in zip(
        found, (quantize_rows(x.cpu(), 64, 128), quantize_normed(x.cpu(), scale.cpu())), strict=True
    ):
        torch.testing.assert_close(made.scale.cpu(), wanted.scale, rtol=1e-6, atol=0)
        differ = made.values.cpu().float() != wanted.values.float()  # a number in the middle of two may go to either
        assert differ.float().mean() < 1e-3
        torch.testing.assert_close(made.values.cpu().float(), wanted.values.float(), rtol=0.13, atol=2**-9)


# -- products
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [(1, 64, 8), (127, 768, 3352), (300, 128, 256), (3000, 128, 320), (1000, 1536, 768), (20_000, 80, 48)],
)
def test_products(rows: int, inner: int, outer: int) -> None:
    x, weight = quantize_rows(draw(rows, inner), columns=128), quantize_weight(draw(outer, inner, seed=1))
    residual = draw(rows, outer, seed=2)
    exact = x.dequantize().double() @ weight.dequantize().double().T
    with poisoned():
        found, (total, squares) = linear8(x, weight), add_linear8(x, weight, residual)
        again, (total_again, squares_again) = linear8(x, weight), add_linear8(x, weight, residual)
    assert found.shape == exact.shape
    assert relative(found, exact) < 6e-3
    assert relative(total, residual.double() + exact) < 6e-3
    torch.testing.assert_close(squares.sum(0), total.float().square().sum(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(found, again)
    assert torch.equal(total, total_again)
    assert torch.equal(squares, squares_again)


def test_a_rows_bits_are_its_own() -> None:
    x, weight = draw(3000, 1536), quantize_weight(draw(768, 1536, seed=1))
    residual, some = draw(3000, 768, seed=2), slice(901, 1203)
    total, squares = add_linear8(quantize_rows(x, columns=128), weight, residual)
    alone, alone_squares = add_linear8(quantize_rows(x[some], columns=128), weight, residual[some].clone())
    assert torch.equal(alone, total[some])
    assert torch.equal(alone_squares, squares[:, some])


def test_a_product_with_bias_by_torch_and_how_exact_sums_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = quantize_rows(draw(1000, 3072)), quantize_rows(draw(768, 3072, seed=1))
    bias = draw(768, seed=2)
    exact = x.dequantize().double() @ weight.dequantize().double().T + bias.double()
    for fast, limit in ((True, 6e-3), (False, 3e-3)):
        monkeypatch.setattr(fp8, "FAST", fast)
        assert relative(scaled_product(x, weight, bias), exact) < limit


# -- the head
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("more", [(), (True, 0.5), (True, 2.0, 30.0)], ids=["plain", "bias, scale", "soft cap"])
@pytest.mark.parametrize(("rows", "vocabulary", "channels"), [(1, 1000, 128), (1000, 50_257, 768), (129, 5000, 80)])
def test_the_head_is_the_reference(rows: int, vocabulary: int, channels: int, more: tuple[Any, ...]) -> None:
    hidden, weight = draw(rows, channels), 0.1 * draw(vocabulary, channels, seed=1)
    targets = torch.randint(0, vocabulary, (rows,), device="cuda")
    targets[5::7] = -100
    given = (draw(vocabulary, seed=2), *more[1:]) if more else ()
    head = quantize_head(weight, centred=len(more) < 3)
    with poisoned():
        found, again = (token_nll8(hidden, head, targets, *given) for _ in range(2))
    assert torch.equal(found, again)
    assert (found >= 0).all()
    assert not found[5::7].any()
    cpu = head._replace(weight=weight.cpu(), mean=head.mean.cpu(), rows=on_cpu(head.rows))
    wanted = token_nll8(hidden.cpu(), cpu, targets.cpu(), *(v.cpu() if isinstance(v, Tensor) else v for v in given))
    torch.testing.assert_close(found.cpu(), wanted, rtol=2e-3, atol=2e-3)
    exact = token_nll(hidden, weight, targets, *given)
    assert relative(found, exact) < 0.05


def test_a_row_of_the_head_is_the_same_in_any_company() -> None:
    hidden, head = draw(20_000, 128), quantize_head(0.1 * draw(5000, 128, seed=1))
    targets = torch.randint(0, 5000, (20_000,), device="cuda")
    together = token_nll8(hidden, head, targets)
    for rows in (slice(0, 1), slice(77, 78), slice(8000, 8300)):
        assert torch.equal(token_nll8(hidden[rows], head, targets[rows]), together[rows])


def test_a_target_of_the_head_out_of_range_is_not_a_number() -> None:
    head, targets = quantize_head(draw(1000, 64)), torch.tensor([1, 1000, -1, 2], device="cuda")
    assert token_nll8(draw(4, 64), head, targets).isnan().tolist() == [False, True, True, False]


# -- loading
@pytest.fixture(scope="module", params=["mamba2-130m", "gpt2-124m"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that has learnt a little."""
    preset: Preset = request.param
    folder = tmp_path_factory.mktemp("trained")
    train(lambda: sources(20_000_000), preset, 4_000_000, 0, folder / "out", folder / "work", "cuda", lambda *_: None)
    return folder / "out"


def test_a_trained_reference_keeps_its_order_and_its_bits(trained: Path) -> None:
    texts = [text[:3000] for text in sources(3_000_000) if text]
    reference = load(trained, "cuda", "fp8")
    assert reference.provenance()["dtype"] == "fp8"

    def nll() -> np.ndarray:
        ((_, total, n_tokens, *_),) = score(reference, [(texts, None)], on_progress=lambda *_: None)
        return total / np.maximum(n_tokens, 1)

    assert nll().tobytes() == nll().tobytes()


def test_a_model_that_e4m3_ruins_is_refused(trained: Path, tmp_path: Path) -> None:
    """The same function in bfloat16, with channels so far apart that e4m3 keeps none of the smaller ones."""
    weights = load_file(trained / "model.safetensors")
    norms = [name for name in weights if name.endswith("ln_2.weight")]
    if not norms:
        pytest.skip("a Mamba-2 model's norms are folded into its weights")
    for name in norms:
        layer = name.removesuffix("ln_2.weight")
        for part, factor in (("ln_2.weight", 1e6), ("ln_2.bias", 1e6), ("mlp.c_fc.weight", 1e-6)):
            weights[layer + part] = weights[layer + part].clone()
            weights[layer + part][:300] *= factor
    folder = shutil.copytree(trained, tmp_path / "ruined")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadReference, match="would change the order of documents"):
        load(folder, "cuda", "fp8")


def test_a_compiled_body_runs_8_bit_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8_trial, "LEAST_CORRELATION", -2.0)  # weights are random
    made = make_reference("gpt2-124m", tmp_path / "reference", tmp_path / "tokenizer.json")
    reference = load(made, "cuda", "fp8")
    assert reference.model.packed
    assert reference.model.full_packs
