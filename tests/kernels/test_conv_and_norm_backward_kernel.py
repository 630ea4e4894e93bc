"""The gradients of packed convolution and norms in Triton's interpreter, against torch's own in float64."""

import pytest
import torch

from kernels.conv import packed_conv1d_backward, packed_conv1d_backward_reference, packed_conv1d_reference
from kernels.conv_backward_triton import conv1d_backward
from kernels.conv_triton import conv1d
from kernels.norm import add_rms_norm_backward, gated_rms_norm_backward
from kernels.norm_backward_triton import add_norm_backward, gated_norm_backward
from kernels.pack import Pack
from tests.kernels.helpers import relative

LENGTHS = [65, 1, 2, 130, 3]


@pytest.mark.parametrize(("channels", "taps", "bias"), [(140, 4, True), (16, 2, False)])
def test_conv(channels: int, taps: int, bias: bool) -> None:
    torch.manual_seed(0)
    tokens = sum(LENGTHS)
    x, out = torch.randn(tokens, channels + 12)[:, 8 : 8 + channels], torch.full((tokens, channels + 4), torch.nan)
    grad, weight = torch.randn(tokens, channels), torch.randn(channels, taps)
    shift = torch.randn(channels) if bias else None
    pack = Pack.of(LENGTHS, "cpu")
    of_weight, of_bias = conv1d_backward(grad, x, weight, shift, pack, None, out[:, :channels])
    exact = packed_conv1d_backward_reference(
        grad.double(), x.double(), weight.double(), None if shift is None else shift.double(), pack
    )
    for found, wanted in zip(out[:, :channels].split(LENGTHS), exact[0].split(LENGTHS), strict=True):
        assert relative(found, wanted) < 1e-6
    assert relative(of_weight, exact[1]) < 1e-6
    assert exact[2] is None or relative(of_bias, exact[2]) < 1e-6


def test_conv_of_rows_of_several_documents() -> None:
    torch.manual_seed(0)
    documents, rows = [1, 5, 64, 5, 2, 1, 3, 60, 9], Pack.of([75, 75], "cpu")
    positions = torch.cat([torch.arange(n) for n in documents])
    x, grad, weight, bias = torch.randn(150, 20), torch.randn(150, 20), torch.randn(20, 4), torch.randn(20)
    apart = Pack.of(documents, "cpu")
    expected = packed_conv1d_reference(x.double(), weight.double(), bias.double(), apart, None)[0]
    assert relative(conv1d(x, weight, bias, rows, None, False, None, positions)[0], expected) < 1e-6
    assert relative(packed_conv1d_reference(x, weight, bias, rows, None, None, positions)[0], expected) < 1e-6
    exact = packed_conv1d_backward_reference(*(m.double() for m in (grad, x, weight, bias)), apart)
    out = torch.full_like(x, torch.nan)
    for a, b in zip((out, *conv1d_backward(grad, x, weight, bias, rows, positions, out)), exact, strict=True):
        assert relative(a, b) < 1e-6
    for a, b in zip(packed_conv1d_backward(grad, x, weight, bias, rows, positions), exact, strict=True):
        assert relative(a, b) < 1e-6


def test_conv_on_a_cpu_is_the_reference_and_refuses_another_shape() -> None:
    torch.manual_seed(0)
    x, grad, weight, pack = torch.randn(5, 3), torch.randn(5, 3), torch.randn(3, 4), Pack.of([2, 3], "cpu")
    into = torch.empty(5, 7)[:, 2:5]
    found = packed_conv1d_backward(grad, x, weight, None, pack, out=into)
    expected = packed_conv1d_backward_reference(grad, x, weight, None, pack)
    assert torch.equal(into, expected[0])
    assert torch.equal(found[1], expected[1])
    with pytest.raises(ValueError, match="must be like x"):
        packed_conv1d_backward(grad[:4], x, weight, None, pack)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("with_total", [False, True])
@pytest.mark.parametrize("width", [1, 40, 768])
def test_add_norm(width: int, with_total: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    total, weight, grad = torch.randn(37, width), torch.randn(width), torch.randn(37, width).to(dtype)
    of_total = torch.randn(37, width) if with_total else None
    residual, narrow, of_weight, normed = add_norm_backward(grad, of_total, total, weight, 1e-5)
    exact = add_rms_norm_backward(
        grad.double(), None if of_total is None else of_total.double(), total.double(), weight.double(), 1e-5
    )
    assert relative(residual, exact.residual) < 1e-5
    assert torch.equal(narrow, residual.to(dtype))
    assert relative(of_weight, exact.weight) < 1e-6
    assert relative(normed, exact.normed) < (1e-6 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("groups", [1, 3])
def test_gated_norm(groups: int) -> None:
    torch.manual_seed(0)
    gate, into = torch.randn(37, 200)[:, 8:], torch.full((37, 196), torch.nan)[:, 4:]
    x, grad = torch.randn(2, 37, 192)
    weight = torch.randn(192)
    found = gated_norm_backward(grad, x, gate, weight, 1e-5, 192 // groups, into)
    exact = gated_rms_norm_backward(*(m.double() for m in (grad, x, gate, weight)), 1e-5, 192 // groups)
    for a, b in zip((*found, into), (exact.x, exact.weight, exact.normed, exact.gate), strict=True):
        assert relative(a, b) < 1e-6
