"""Matrix products with a row's factor and a gate: the references in torch, on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from kernels.linear import linear, scales
from tests.kernels.helpers import relative


@pytest.mark.parametrize("gate", [0, 64, 128])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_product_with_factors_and_a_gate(scaled: bool, gate: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(9, 80), torch.randn(200, 80) / 9
    scale = torch.rand(9) + 0.5 if scaled else None
    exact = x.double() @ weight.double().T * (1 if scale is None else scale[:, None])
    exact[:, :gate] = F.silu(exact[:, :gate])
    assert scales(x, weight)
    assert relative(linear(x, weight, scale, gate), exact) < 1e-6
    assert relative(linear(x.bfloat16(), weight.bfloat16(), scale, gate), exact) < 0.02


def test_a_gate_is_whole_tiles() -> None:
    with pytest.raises(ValueError, match="multiple of 64; got 40"):
        linear(torch.ones(2, 8), torch.ones(80, 8), gate=40)
