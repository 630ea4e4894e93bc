"""The kernels of 8-bit rows and of the 8-bit NLL head in Triton's interpreter, against the references in torch."""

import pytest
import torch
from torch import Tensor

from kernels import nll_fp8_triton
from kernels.e4m3 import Fp8Head, Fp8Rows
from kernels.fp8 import quantize_normed, quantize_rows
from kernels.fp8_triton import quantize
from kernels.nll_fp8 import quantize_head, token_nll8
from kernels.nll_triton import PART, partial_sums


@pytest.fixture(autouse=True)
def empty_is_nan() -> None:
    """What a kernel does not write is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(2).isnan().all()


def same_rows(made: tuple[Tensor, Tensor], expected: Fp8Rows) -> None:
    values, scale = made
    torch.testing.assert_close(scale, expected.scale, rtol=1e-6, atol=0)
    # The interpreter loses the carry where rounding up changes the exponent. On a GPU all are the same.
    assert (values.float() == expected.values.float()).float().mean() > 0.97


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("count", "width"), [(1, 16), (7, 100)])
def test_rows(count: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(count, width + 8)[:, 4 : 4 + width].to(dtype)
    x[0] = 0
    same_rows(quantize(x, None, (8, 128)), quantize_rows(x, 8, 128))
    scale = torch.rand(count) + 0.5
    same_rows(quantize(x, scale, (count, 128)), quantize_normed(x, scale))


def nll(
    hidden: Tensor,
    head: Fp8Head,
    targets: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    rows = quantize_rows(hidden, columns=128)
    tops, sums = partial_sums(rows, head.rows, bias, scale, softcap)
    return nll_fp8_triton.finish(hidden, rows, head, targets, bias, scale, softcap, tops, sums)


@pytest.mark.parametrize(("rows", "vocabulary", "channels"), [(1, 1, 16), (130, PART + 52, 48), (64, 80, 160)])
def test_the_head(rows: int, vocabulary: int, channels: int) -> None:
    torch.manual_seed(rows)
    targets = torch.randint(0, vocabulary, (rows,))
    targets[2::3] = -100
    hidden, head = torch.randn(rows, channels), quantize_head(torch.randn(vocabulary, channels))
    found = nll(hidden, head, targets)
    torch.testing.assert_close(found, token_nll8(hidden, head, targets), rtol=1e-4, atol=1e-4)
    assert (found >= 0).all()


def test_the_head_with_bias_scale_and_softcap() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(9, 48), quantize_head(torch.randn(300, 48), centred=False)
    more = torch.randn(300), 0.5, 3.0
    targets = torch.tensor([0, 5, 299, -100, 300, -1, 7, 8, 9])
    found = nll(hidden, head, targets, *more)
    torch.testing.assert_close(found, token_nll8(hidden, head, targets, *more), rtol=1e-4, atol=1e-4, equal_nan=True)
    assert found.isnan().tolist() == [False] * 4 + [True] * 2 + [False] * 3
