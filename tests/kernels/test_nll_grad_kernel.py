"""The kernel that makes logits their gradient, in Triton's interpreter, in float32."""

import math

import pytest
import torch
import torch.nn.functional as F

from kernels import nll_grad_triton
from kernels.nll_grad_triton import softmax_grad_
from tests.kernels.helpers import poisoned, relative


@pytest.mark.parametrize("vocabulary", [1, 50, 64, 300])
def test_values_and_gradients_are_those_of_cross_entropy(vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nll_grad_triton, "_BLOCK", 64)
    torch.manual_seed(0)
    logits, targets = 5 * torch.randn(9, vocabulary), torch.randint(0, vocabulary, (9,))
    targets[3] = -100
    exact = logits.double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction="none")
    (0.25 * expected.sum()).backward()
    with poisoned():
        found = softmax_grad_(logits, targets, torch.tensor(0.25))
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    assert exact.grad is not None
    torch.testing.assert_close(logits.double(), exact.grad, rtol=1e-4, atol=1e-7)
    assert not logits[3].any()


def test_large_logits_do_not_overflow_and_a_wrong_target_is_not_a_number() -> None:
    logits = torch.tensor([[1e4, -1e4, 1e4], [0.0, 0.0, 0.0]])
    found = softmax_grad_(logits, torch.tensor([1, 3]), torch.tensor(1.0))
    assert found[0].item() == pytest.approx(2e4 + math.log(2))
    assert found[1].isnan()
    assert not logits[1].any()
    assert relative(logits[0], torch.tensor([0.5, -1.0, 0.5])) < 1e-6
