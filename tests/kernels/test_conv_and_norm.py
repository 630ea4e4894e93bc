"""The causal convolution and the norms against torch's own operations and by hand."""

import pytest
import torch
import torch.nn.functional as F

from kernels.conv import causal_conv1d, packed_conv1d
from kernels.norm import add_rms_norm, gated_rms_norm, rms_norm
from kernels.pack import Pack


@pytest.mark.parametrize("length", [1, 2, 3, 4, 50])
def test_conv_is_torchs_depthwise_convolution(length: int) -> None:
    torch.manual_seed(length)
    x, weight, bias = torch.randn(2, length, 5), torch.randn(5, 4), torch.randn(5)
    expected = F.conv1d(x.mT, weight[:, None], bias, padding=3, groups=5)[..., :length].mT
    y, state = causal_conv1d(x, weight, bias)
    torch.testing.assert_close(y, F.silu(expected))
    torch.testing.assert_close(causal_conv1d(x, weight, bias, silu=False)[0], expected)
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


def test_packed_conv_is_the_conv_of_each_document() -> None:
    torch.manual_seed(0)
    lengths = [3, 1, 9, 2]
    x, weight, bias, states = torch.randn(15, 5), torch.randn(5, 4), torch.randn(5), torch.randn(4, 3, 5)
    for state in (None, states):
        y, after = packed_conv1d(x, weight, bias, Pack.of(lengths, "cpu"), state, keep_state=True)
        assert after is not None
        for i, (got, document) in enumerate(zip(y.split(lengths), x.split(lengths), strict=True)):
            expected, last = causal_conv1d(document[None], weight, bias, None if state is None else state[i, None])
            torch.testing.assert_close(got, expected[0])
            torch.testing.assert_close(after[i], last[0])


def test_packed_conv_goes_on_from_its_state() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(12, 5), torch.randn(5, 4)
    whole, nothing = packed_conv1d(x, weight, None, Pack.of([12], "cpu"))
    assert nothing is None
    first, state = packed_conv1d(x[:2], weight, None, Pack.of([2], "cpu"), keep_state=True)
    second, _ = packed_conv1d(x[2:], weight, None, Pack.of([10], "cpu"), state)
    torch.testing.assert_close(torch.cat((first, second)), whole)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 3)}, "pack has 4 tokens, x has 5"),
        ({"weight": torch.zeros(2, 4)}, r"weight \[C, K\]"),
        ({"weight": torch.zeros(3, 9)}, "9 taps"),
        ({"bias": torch.zeros(2)}, r"bias must be \[3\]"),
        ({"initial_state": torch.zeros(1, 2, 3)}, r"initial_state must be \[1, 3, 3\]"),
        ({"x": torch.zeros(3, 4).T}, "contiguous"),
        ({"x": torch.zeros(4, 3, dtype=torch.float64)}, "float64"),
    ],
)
def test_what_the_packed_conv_does_not_support_is_named(change: dict[str, torch.Tensor], message: str) -> None:
    arguments = {"x": torch.zeros(4, 3), "weight": torch.zeros(3, 4), "bias": None, "pack": Pack.of([4], "cpu")}
    with pytest.raises(ValueError, match=message):
        packed_conv1d(**{**arguments, **change})


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


def test_add_rms_norm_is_the_sum_and_its_norm() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 8).bfloat16().requires_grad_(), torch.randn(8)
    residual = torch.randn(3, 8, requires_grad=True)
    normed, total = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, residual + x)
    assert torch.equal(normed, rms_norm(residual + x, weight, 1e-5).bfloat16())
    normed.sum().backward()
    assert x.grad is not None
    assert residual.grad is not None
    alone, same = add_rms_norm(residual, None, weight, 1e-5)
    assert same is residual
    assert torch.equal(alone, rms_norm(residual, weight, 1e-5))
    with pytest.raises(ValueError, match="must agree"):
        add_rms_norm(x, residual[:2], weight, 1e-5)
