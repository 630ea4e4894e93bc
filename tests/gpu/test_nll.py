"""On a GPU: the NLL head by its kernels, the one chosen for the device and the portable one."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels.nll import mean_nll, token_nll
from tests.kernels.helpers import exact_nll, poisoned, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.fixture(params=["chosen", "portable"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "portable":
        monkeypatch.setattr("kernels.tiles_hopper.supports", lambda *_: False)


@pytest.fixture(autouse=True)
def empty_is_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a kernel does not write is NaN."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with poisoned():
        assert torch.empty(2, device="cuda").isnan().all()
        yield


def case(rows: int, vocabulary: int, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(rows + vocabulary)
    targets = torch.randint(0, vocabulary, (rows,), device="cuda")
    targets[5::7] = -100
    hidden = torch.randn(rows, channels, device="cuda")
    weight = 0.1 * torch.randn(vocabulary, channels, device="cuda")
    return hidden.to(dtype), weight.to(dtype), targets


def error(*given: Any) -> float:
    """Of token_nll, relative to float64."""
    found = token_nll(*given)
    assert found.dtype == torch.float32
    return relative(found, exact_nll(*given))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 127, 129, 1000])
@pytest.mark.parametrize(("vocabulary", "channels"), [(50_280, 768), (50_257, 80), (1000, 128), (1000, 23), (1, 64)])
def test_it_is_cross_entropy(rows: int, vocabulary: int, channels: int, dtype: torch.dtype) -> None:
    if vocabulary == 1:
        hidden, weight, targets = case(rows, vocabulary, channels, dtype)
        assert token_nll(hidden, weight, targets).abs().max() < 1e-5
    else:
        assert error(*case(rows, vocabulary, channels, dtype)) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_scale_and_softcap(dtype: torch.dtype) -> None:
    hidden, weight, targets = case(300, 50_257, 768, dtype)
    bias = torch.randn(50_257, device="cuda").to(dtype)
    assert error(hidden, weight, targets, bias) < 1e-5
    assert error(hidden, weight, targets, None, 0.125) < 1e-5
    assert error(hidden, weight, targets, bias, 2.0, 30.0) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_the_same_in_any_company_and_every_time(dtype: torch.dtype) -> None:
    hidden, weight, targets = case(20_000, 5000, 128, dtype)
    together = token_nll(hidden, weight, targets)
    assert torch.equal(token_nll(hidden, weight, targets), together)
    for rows in (slice(0, 1), slice(77, 78), slice(8000, 8300), slice(19_999, 20_000)):
        assert torch.equal(token_nll(hidden[rows], weight, targets[rows]), together[rows])
    assert torch.equal(token_nll(hidden.flip(0), weight, targets.flip(0)), together.flip(0))


def test_the_last_rows_of_tensors_of_more_than_2_to_the_31_elements() -> None:
    hidden, weight, targets = case(40, 40, 64, torch.bfloat16)
    apart = torch.empty(40 << 26, dtype=torch.bfloat16, device="cuda").as_strided((40, 64), (1 << 26, 1))
    expected = token_nll(hidden, weight, targets)
    apart.copy_(hidden)
    assert torch.equal(token_nll(apart, weight, targets), expected)
    apart.copy_(weight)
    assert torch.equal(token_nll(hidden, apart, targets), expected)


def test_a_target_out_of_range_is_not_a_number() -> None:
    hidden, weight, targets = case(4, 1000, 64, torch.bfloat16)
    targets[1] = 1000
    assert token_nll(hidden, weight, targets).isnan().tolist() == [False, True, False, False]


def test_logits_never_exist() -> None:
    hidden, weight, targets = case(8192, 50_280, 128, torch.bfloat16)
    token_nll(hidden, weight, targets)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    token_nll(hidden, weight, targets)
    # A hundredth of the 1.6 GB that they would take in float32.
    assert torch.cuda.max_memory_allocated() - before < 16e6


def test_what_the_kernels_cannot_take_is_an_error() -> None:
    hidden, weight, targets = case(4, 100, 64, torch.float64)
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        token_nll(hidden, weight, targets)


# -- in training
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1, 1000, 5000])
def test_the_mean_and_its_gradients(rows: int, dtype: torch.dtype, limit: float) -> None:
    hidden, weight, targets = case(rows, 50_257, 80, dtype)
    weight = weight.float()
    runs = []
    for _ in range(2):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = mean_nll(h, w, targets)
        (0.5 * loss).backward()
        assert h.grad is not None
        assert w.grad is not None
        runs.append((loss.detach(), h.grad, w.grad))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
    h, w = hidden.double().requires_grad_(), weight.to(dtype).double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(h @ w.T, targets)
    (0.5 * expected).backward()
    assert h.grad is not None
    assert w.grad is not None
    loss, dh, dw = runs[0]
    assert abs(loss - expected) < limit * expected
    assert relative(dh, h.grad) < limit
    assert relative(dw, w.grad) < limit


def test_memory_of_the_gradients_does_not_grow_with_the_rows() -> None:
    hidden, weight, targets = case(32_768, 50_304, 128, torch.bfloat16)
    hidden, weight = hidden.requires_grad_(), weight.float().requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    mean_nll(hidden, weight, targets).backward()
    # 4,096 rows of logits at a time, not the 3.3 GB of all of them.
    assert torch.cuda.max_memory_allocated() - before < 0.6e9
