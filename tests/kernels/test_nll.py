"""Token NLLs and their mean against the whole logits, and the memory that they must not take."""

import pytest
import torch
import torch.nn.functional as F

from kernels import nll
from kernels.nll import mean_nll, token_nll


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nll, "_CPU_LOGITS", 1)
    monkeypatch.setattr(nll, "_CPU_MIN_ROWS", 7)


def case(rows: int = 40) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(rows)
    targets = torch.randint(0, 50, (rows,))
    targets[3::5] = -100
    return torch.randn(rows, 16), torch.randn(50, 16), targets


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_token_nll_is_cross_entropy_of_the_whole_logits(rows: int) -> None:
    hidden, weight, targets = case(rows)
    bias = torch.randn(50)
    expected = F.cross_entropy(hidden @ weight.T + bias, targets, reduction="none")
    torch.testing.assert_close(token_nll(hidden, weight, targets, bias), expected)


@pytest.mark.usefixtures("small_chunks")
def test_mean_nll_has_the_value_and_gradients_of_cross_entropy() -> None:
    hidden, weight, targets = case()
    results = []
    for loss_of in (mean_nll, lambda h, w, t: F.cross_entropy(h @ w.T, t)):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = loss_of(h, w, targets)
        (3 * loss).backward()
        results.append((loss.detach(), h.grad, w.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_mean_nll_of_nothing_scored_is_zero() -> None:
    hidden, weight, _ = case(4)
    hidden.requires_grad_()
    loss = mean_nll(hidden, weight, torch.full((4,), -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.full((2, 1), 1e4)
    weight = torch.tensor([[1.0], [-1.0], [1.0]])
    found = token_nll(hidden, weight, torch.tensor([0, 1]))
    torch.testing.assert_close(found, torch.tensor([0.0, 2e4]) + torch.tensor(2.0).log())
    torch.testing.assert_close(mean_nll(hidden, weight, torch.tensor([0, 1])), found.mean())


def test_bfloat16_products_are_summed_in_float32() -> None:
    hidden, weight, targets = case()
    found = token_nll(hidden.bfloat16(), weight, targets)
    expected = F.cross_entropy(hidden.bfloat16().float() @ weight.bfloat16().float().T, targets, reduction="none")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=5e-2)


def test_logits_are_never_held_whole() -> None:
    # 4,096 rows of 50,000 logits would be 0.8 GB in float32; the largest block asked for stays far below.
    hidden, weight, targets = torch.randn(4096, 4), torch.randn(50_000, 4), torch.zeros(4096, dtype=torch.long)
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        token_nll(hidden, weight, targets)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest < 200e6


def test_scale_and_softcap_of_logits() -> None:
    hidden, weight, targets = case()
    expected = F.cross_entropy(3 * torch.tanh(0.5 * (hidden @ weight.T) / 3), targets, reduction="none")
    torch.testing.assert_close(token_nll(hidden, weight, targets, scale=0.5, softcap=3.0), expected)
    with pytest.raises(ValueError, match="above 0"):
        token_nll(hidden, weight, targets, softcap=0.0)
