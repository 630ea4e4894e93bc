"""The kernels of packed convolution and norms in Triton's interpreter, against the references; see conftest."""

import pytest
import torch
from torch import Tensor

from kernels.conv import packed_conv1d_reference
from kernels.conv_triton import conv1d
from kernels.norm import add_rms_norm, gated_rms_norm
from kernels.norm_triton import WIDEST, add_norm, gated_norm
from kernels.pack import Pack
from tests.kernels.helpers import relative

LENGTHS = [65, 1, 2, 130, 3]
FLOAT16 = (torch.float16, 1e-3)
FLOAT32 = (torch.float32, 1e-6)


def rows_in_wider_rows(rows: int, width: int, dtype: torch.dtype, stride: int) -> Tensor:
    """A slice of a projection's output."""
    return torch.randn(rows, stride)[:, 8 : 8 + width].to(dtype)


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [FLOAT16, FLOAT32])
@pytest.mark.parametrize(("channels", "taps", "bias"), [(300, 4, True), (16, 2, False), (5, 8, True)])
def test_conv(channels: int, taps: int, bias: bool, dtype: torch.dtype, close: float, with_state: bool) -> None:
    torch.manual_seed(0)
    x = rows_in_wider_rows(sum(LENGTHS), channels, dtype, stride=channels + 12)
    weight, shift = torch.randn(channels, taps), torch.randn(channels) if bias else None
    state = torch.randn(len(LENGTHS), taps - 1, channels).to(dtype) if with_state else None
    pack = Pack.of(LENGTHS, "cpu")
    scale = torch.rand(len(x)) if with_state else None
    y, after = conv1d(x, weight, shift, pack, state, True, scale)
    assert y.dtype == dtype
    wide_state = None if state is None else state.float()
    assert relative(y, packed_conv1d_reference(x.float(), weight, shift, pack, wide_state, scale)[0]) < close
    assert after is not None
    assert torch.equal(after, packed_conv1d_reference(x, weight, shift, pack, state, scale)[1])
    assert torch.equal(conv1d(x, weight, shift, pack, state, False, scale)[0], y)


def test_conv_without_silu() -> None:
    torch.manual_seed(0)
    x, weight, shift, state = torch.randn(8, 20), torch.randn(20, 4), torch.randn(20), torch.randn(2, 3, 20)
    pack = Pack.of([3, 5], "cpu")
    y, _ = conv1d(x, weight, shift, pack, state, False, None, silu=False)
    torch.testing.assert_close(y, packed_conv1d_reference(x, weight, shift, pack, state, silu=False)[0])


def test_conv_reads_no_other_document() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(sum(LENGTHS), 20), torch.randn(20, 4)
    x[68:198] = x[68:198].abs()
    alone, _ = conv1d(x[68:198], weight, None, Pack.of([130], "cpu"), None, False, None)
    x[:68] = x[198:] = float("nan")
    assert torch.equal(conv1d(x, weight, None, Pack.of(LENGTHS, "cpu"), None, False, None)[0][68:198], alone)


@pytest.mark.parametrize("width", [1, 40, 768])
@pytest.mark.parametrize("residual_dtype", [None, torch.float16, torch.float32])
@pytest.mark.parametrize(("dtype", "close"), [FLOAT16, FLOAT32])
def test_add_norm(width: int, dtype: torch.dtype, close: float, residual_dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    x, weight = rows_in_wider_rows(6, width, dtype, stride=width + 8), torch.randn(width)
    residual = None if residual_dtype is None else torch.randn(6, width).to(residual_dtype)
    normed, total = add_norm(x, residual, weight, 1e-5)
    expected, expected_total = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, expected_total)
    assert total.dtype == (residual_dtype or dtype)
    assert normed.dtype == dtype
    assert relative(normed, expected) < close


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("dtype", "close"), [FLOAT16, FLOAT32])
def test_gated_norm(groups: int, dtype: torch.dtype, close: float, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    width = 1536 // groups
    gate = torch.randn(*shape, 1536 + 8).to(dtype)[..., 8:]
    x, weight = torch.randn(*shape, 1536).to(dtype), torch.randn(1536)
    normed = gated_norm(x, gate, weight, 1e-5, width)
    assert normed.dtype == dtype
    assert normed.shape == x.shape
    assert relative(normed, gated_rms_norm(x, gate, weight, 1e-5, width)) < close


def test_rows_too_wide_are_refused() -> None:
    x = torch.zeros(1, WIDEST + 1)
    with pytest.raises(ValueError, match="65,537 numbers are too wide"):
        add_norm(x, None, x[0], 1e-5)
