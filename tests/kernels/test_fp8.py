"""8-bit matrices, their products and the 8-bit NLL head: the references in torch, on a CPU."""

import pytest
import torch

from kernels.e4m3 import E4M3
from kernels.fp8 import add_linear8, linear8, quantize_normed, quantize_rows, quantize_weight
from kernels.nll import token_nll
from kernels.nll_fp8 import quantize_head, token_nll8
from kernels.norm import row_scale, row_squares
from tests.kernels.helpers import relative


def test_each_number_is_off_by_a_sixteenth_at_most() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 48) * torch.tensor([1.0, 1e-6, 1e6, 3.0, 0.0])[:, None]
    rows = quantize_rows(x, rows=4, columns=32)
    assert rows.values.dtype == E4M3
    assert rows.values.shape == (8, 64)
    assert not rows.values[5:].float().any()
    assert not rows.values[:, 48:].float().any()
    large = x.abs() > x.abs().amax(1, keepdim=True) / 1000
    assert ((rows.dequantize()[:, :48] - x).abs() <= x.abs() / 15.9)[large].all()
    assert rows.values[:4].float().abs().amax(1).tolist() == [448.0] * 4


def test_a_row_with_a_number_that_is_not_finite_is_not_a_number() -> None:
    x = torch.ones(3, 16)
    x[0, 3], x[2, 5] = float("nan"), float("inf")
    weight = quantize_weight(torch.ones(2, 16))
    y = linear8(quantize_rows(x, columns=128), weight)
    assert y.isnan().any(1).tolist() == [True, False, True]


def test_normed_rows_never_leave_the_range() -> None:
    x = torch.zeros(2, 64)
    x[0, 7] = 5.0  # the largest number that a normed row can have: the root of its width
    x[1] = torch.randn(64, generator=torch.Generator().manual_seed(0))
    scale = row_scale(row_squares(x), 64, 1e-12)
    rows = quantize_normed(x, scale)
    assert rows.values[0, 7].float() == 448
    assert relative(rows.dequantize()[:, :64], x * scale[:, None]) < 0.03


def test_products() -> None:
    torch.manual_seed(0)
    x, weight, residual = torch.randn(9, 80), torch.randn(24, 80), torch.randn(9, 24)
    rows, columns = quantize_rows(x, columns=128), quantize_weight(weight)
    y = linear8(rows, columns)
    assert y.shape == (9, 24)
    assert relative(y, rows.dequantize() @ columns.dequantize().T) < 4e-3
    assert relative(y, x @ weight.T) < 0.06
    total, squares = add_linear8(rows, columns, residual)
    assert relative(total, residual + x @ weight.T) < 0.06
    torch.testing.assert_close(squares.sum(0), total.square().sum(1))


@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.5, 20.0)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_head_is_near_and_exact_where_the_model_is_sure(
    scale: float, softcap: float | None, with_bias: bool
) -> None:
    torch.manual_seed(0)
    # All logits of a row have much in common, which must not be rounded.
    common = torch.randn(96)
    own = 0.1 * torch.randn(500, 96)
    weight = own + (common if softcap is None else 0)
    targets = torch.randint(0, 500, (40,))
    hidden = torch.randn(40, 96)
    hidden[:10] += 20 * own[targets[:10]]
    hidden += 0.5 * common if softcap is None else 0
    targets[20] = -100
    bias = torch.randn(500) if with_bias else None
    exact = token_nll(hidden, weight, targets, bias, scale, softcap)
    found = token_nll8(hidden, quantize_head(weight, centred=softcap is None), targets, bias, scale, softcap)
    assert found[20] == 0
    assert (found >= 0).all()
    assert (found - exact).abs().max() < 0.3
    assert (found - exact).abs().mean() < 0.06
    sure = exact[:10] < 0.1
    assert sure.any()
    assert (found - exact)[:10][sure].abs().max() < 0.03


def test_a_target_out_of_range_is_not_a_number() -> None:
    head = quantize_head(torch.randn(50, 16))
    found = token_nll8(torch.randn(3, 16), head, torch.tensor([1, 50, -1]))
    assert found.isnan().tolist() == [False, True, True]


def test_a_soft_cap_needs_a_head_that_is_not_centred() -> None:
    with pytest.raises(ValueError, match="soft cap"):
        token_nll8(torch.randn(3, 16), quantize_head(torch.randn(50, 16)), torch.zeros(3, dtype=torch.int64), softcap=5)
