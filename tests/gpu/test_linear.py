"""On a GPU: matrix products with a residual's sum and its squares, against float64 and bit for bit."""

import pytest
import torch
import torch.nn.functional as F

from kernels.linear import add_linear, linear, scales
from kernels.norm import row_scale, row_squares
from scorer.causal_lm.gelu import linear_gelu
from tests.kernels.helpers import poisoned

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

DTYPES = [(torch.bfloat16, 4e-3), (torch.float16, 1e-3), (torch.float32, 1e-5)]


def draw(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").to(dtype)


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize(
    ("rows", "inner", "outer"),
    [
        (1, 64, 8),
        (127, 768, 3352),
        (300, 64, 256),
        (3000, 128, 320),
        (500, 128, 328),
        (1000, 1536, 768),
        (20_000, 80, 48),
    ],
)
def test_products(rows: int, inner: int, outer: int, dtype: torch.dtype, close: float) -> None:
    x, weight = draw(rows, inner, dtype=dtype), draw(outer, inner, dtype=dtype, seed=1)
    residual, scale = draw(rows, outer, dtype=dtype, seed=2), draw(rows, dtype=torch.float32, seed=3).abs()
    exact = x.double() @ weight.double().T
    found = linear(x, weight)
    assert found.shape == exact.shape
    assert (found.double() - exact).norm() < close * exact.norm()
    total, squares = add_linear(x, weight, residual, scale)
    wanted = residual.double() + scale.double()[:, None] * exact
    assert (total.double() - wanted).norm() < close * wanted.norm()
    torch.testing.assert_close(squares.sum(0), total.float().square().sum(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(row_squares(total), total.float().square().sum(1)[None], rtol=1e-5, atol=1e-5)
    expected = torch.rsqrt(total.double().square().mean(1) + 1e-5)
    torch.testing.assert_close(row_scale(squares, outer, 1e-5).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("dtype", "close"), DTYPES[:2])
@pytest.mark.parametrize(
    ("rows", "inner", "outer", "gate"), [(1, 64, 72, 64), (300, 128, 320, 0), (1000, 768, 3352, 1536)]
)
def test_products_with_factors_and_a_gate(
    rows: int, inner: int, outer: int, gate: int, dtype: torch.dtype, close: float
) -> None:
    x, weight = draw(rows, inner, dtype=dtype), draw(outer, inner, dtype=dtype, seed=1) / inner**0.5
    scale = draw(rows, dtype=torch.float32, seed=3).abs()
    if not scales(x, weight):
        pytest.skip("not on this GPU")
    before = scale.double()[:, None] * (x.double() @ weight.double().T)
    exact = torch.cat((F.silu(before[:, :gate]), before[:, gate:]), dim=1)
    with poisoned():
        found, again = linear(x, weight, scale, gate), linear(x, weight, scale, gate)
    assert (found.double() - exact).norm() < close * exact.norm()
    rounding, tanh = torch.finfo(dtype).eps / 2, 2.5e-4
    assert ((found.double() - exact).abs() <= rounding * exact.abs() + tanh * before.abs() + 1e-5).all()
    assert torch.equal(found, again)
    assert torch.equal(linear(x[:1].clone(), weight, scale[:1].clone(), gate), found[:1])


def test_a_rows_bits_are_its_own_and_the_same_twice() -> None:
    x, weight = draw(3000, 1536, dtype=torch.bfloat16), draw(768, 1536, dtype=torch.bfloat16, seed=1)
    residual, scale = draw(3000, 768, dtype=torch.bfloat16, seed=2), draw(3000, dtype=torch.float32, seed=3)
    with poisoned():
        total, squares = add_linear(x, weight, residual, scale)
        again, again_squares = add_linear(x, weight, residual, scale)
        some = slice(901, 1203)
        alone, alone_squares = add_linear(x[some].clone(), weight, residual[some].clone(), scale[some].clone())
        projected, projected_alone = linear(x, weight), linear(x[some].clone(), weight)
    assert torch.equal(total, again)
    assert torch.equal(squares, again_squares)
    assert torch.equal(alone, total[some])
    assert torch.equal(alone_squares, squares[:, some])
    assert torch.equal(projected_alone, projected[some])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "inner", "outer"), [(1, 64, 256), (77, 96, 40), (3000, 768, 3072)])
def test_gelu_as_a_part_of_a_product(rows: int, inner: int, outer: int, transposed: bool) -> None:
    x, bias = draw(rows, inner, dtype=torch.bfloat16), draw(outer, dtype=torch.bfloat16, seed=2)
    weight = draw(outer, inner, dtype=torch.bfloat16, seed=1).T / inner**0.5
    weight = weight if transposed else weight.contiguous()
    found = linear_gelu(x, weight, bias)
    exact = F.gelu(torch.addmm(bias.double(), x.double(), weight.double()), approximate="tanh")
    assert (found.double() - exact).norm() < 4e-3 * exact.norm()
    assert torch.equal(found, linear_gelu(x, weight, bias))
