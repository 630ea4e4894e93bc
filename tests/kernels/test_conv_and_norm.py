"""The causal convolution and the norms against torch's own operations and by hand."""

import pytest
import torch
import torch.nn.functional as F

from kernels.conv import causal_conv1d
from kernels.norm import gated_rms_norm, rms_norm


@pytest.mark.parametrize("length", [1, 2, 3, 4, 50])
def test_conv_is_torchs_depthwise_convolution(length: int) -> None:
    torch.manual_seed(length)
    x, weight, bias = torch.randn(2, length, 5), torch.randn(5, 4), torch.randn(5)
    expected = F.silu(F.conv1d(x.mT, weight[:, None], bias, padding=3, groups=5)[..., :length]).mT
    y, state = causal_conv1d(x, weight, bias)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state, F.pad(x, (0, 0, 3, 0))[:, -3:])


@pytest.mark.parametrize("cut", [1, 2, 7])
def test_conv_goes_on_from_its_state(cut: int) -> None:
    torch.manual_seed(cut)
    x, weight = torch.randn(2, 9, 5), torch.randn(5, 4)
    whole, last = causal_conv1d(x, weight)
    first, state = causal_conv1d(x[:, :cut], weight)
    second, state = causal_conv1d(x[:, cut:], weight, initial_state=state)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole)
    torch.testing.assert_close(state, last)


def test_rms_norm_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0]])
    expected = torch.tensor([[3.0, 8.0]]) / (12.5 + 0.5) ** 0.5
    torch.testing.assert_close(rms_norm(x, torch.tensor([1.0, 2.0]), 0.5), expected)


def test_norms_compute_wide_and_return_the_inputs_type() -> None:
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # its square overflows float16
    assert rms_norm(x, torch.ones(4), 1e-5).tolist() == [[1.0] * 4]
    assert gated_rms_norm(x, x, torch.ones(4), 1e-5, 2).dtype == torch.float16


def test_gate_comes_before_the_norm_and_groups_are_apart() -> None:
    torch.manual_seed(0)
    x, gate, weight = torch.randn(3, 6), torch.randn(3, 6), torch.randn(6)
    gated = x * F.silu(gate)
    expected = torch.cat([rms_norm(part, torch.ones(3), 1e-5) for part in gated.split(3, dim=1)], dim=1) * weight
    torch.testing.assert_close(gated_rms_norm(x, gate, weight, 1e-5, 3), expected)
    one_group = gated_rms_norm(x, gate, weight, 1e-5, 6)
    torch.testing.assert_close(one_group, rms_norm(gated, weight, 1e-5))
    assert not torch.allclose(one_group, expected)
