"""On a GPU: the packed convolution and the norms against their references in float64, bit for bit, on large arrays."""

import pytest
import torch
from torch import Tensor

from kernels.conv import (
    packed_conv1d,
    packed_conv1d_backward,
    packed_conv1d_backward_reference,
    packed_conv1d_reference,
)
from kernels.norm import add_rms_norm, add_rms_norm_backward, gated_rms_norm, gated_rms_norm_backward
from kernels.pack import Pack
from tests.kernels.helpers import poisoned, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LENGTHS = [63, 1000, 1, 64, 9000, 2, 65, 3, 127]
DTYPES = [(torch.bfloat16, 5e-3), (torch.float16, 1e-3), (torch.float32, 1e-5)]


def projected(rows: int, start: int, width: int, whole: int, dtype: torch.dtype) -> Tensor:
    """Columns of a projection's output."""
    return torch.randn(rows, whole, device="cuda").to(dtype)[:, start : start + width]


@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize(("channels", "start", "whole"), [(1792, 1536, 3392), (1792, 1536, 3352), (300, 1, 305)])
def test_conv(channels: int, start: int, whole: int, dtype: torch.dtype, close: float, with_state: bool) -> None:
    torch.manual_seed(0)
    x = projected(sum(LENGTHS), start, channels, whole, dtype)
    weight, bias = torch.randn(channels, 4, device="cuda"), torch.randn(channels, device="cuda")
    state = torch.randn(len(LENGTHS), 3, channels, device="cuda").to(dtype) if with_state else None
    pack = Pack.of(LENGTHS, "cuda")
    with poisoned():
        y, after = packed_conv1d(x, weight, bias, pack, state, keep_state=True)
    wide, _ = packed_conv1d_reference(x.double(), weight, bias, pack, state)
    assert after is not None
    assert torch.equal(after, packed_conv1d_reference(x, weight, bias, pack, state)[1])
    for got, expected in zip(y.split(LENGTHS), wide.split(LENGTHS), strict=True):
        assert relative(got, expected) < close
    plain, _ = packed_conv1d(x, weight, bias, pack, state, silu=False)
    assert relative(plain, packed_conv1d_reference(x.double(), weight, bias, pack, state, silu=False)[0]) < close


def test_conv_has_the_same_bits_alone_in_a_pack_and_in_two_parts() -> None:
    torch.manual_seed(0)
    x = projected(sum(LENGTHS), 1536, 1792, 3392, torch.bfloat16)
    weight = torch.randn(1792, 4, device="cuda")
    whole, states = packed_conv1d(x, weight, None, Pack.of(LENGTHS, "cuda"), keep_state=True)
    assert states is not None
    for i, (document, y) in enumerate(zip(x.split(LENGTHS), whole.split(LENGTHS), strict=True)):
        alone, state = packed_conv1d(document, weight, None, Pack.of([len(document)], "cuda"), keep_state=True)
        assert torch.equal(alone, y)
        assert state is not None
        assert torch.equal(state[0], states[i])
        if len(document) > 1:
            _, before = packed_conv1d(document[:-1], weight, None, Pack.of([len(document) - 1], "cuda"), None, True)
            assert torch.equal(packed_conv1d(document[-1:], weight, None, Pack.of([1], "cuda"), before)[0], y[-1:])


@pytest.mark.parametrize("residual_dtype", [None, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("width", [5, 768, 5120])
def test_add_rms_norm(width: int, dtype: torch.dtype, close: float, residual_dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    x, weight = projected(777, 8, width, width + 16, dtype), torch.randn(width, device="cuda")
    residual = None if residual_dtype is None else torch.randn(777, width, device="cuda").to(residual_dtype)
    with poisoned():
        normed, total = add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x if residual is None else (x.float() + residual.float()).to(residual.dtype))
    assert relative(normed, add_rms_norm(total.double(), None, weight, 1e-5)[0]) < close
    assert normed.dtype == dtype


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_gated_rms_norm(groups: int, dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    x, gate = projected(777, 0, 1536, 1536, dtype), projected(777, 0, 1536, 3352, dtype)
    weight = torch.randn(1536, device="cuda")
    with poisoned():
        normed = gated_rms_norm(x, gate, weight, 1e-5, 1536 // groups)
    expected = gated_rms_norm(x.double(), gate.double(), weight, 1e-5, 1536 // groups)
    assert normed.dtype == dtype
    assert relative(normed, expected) < close
    one_row = gated_rms_norm(x[5:6], gate[5:6], weight, 1e-5, 1536 // groups)
    assert torch.equal(normed[5:6], one_row)


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize(
    ("channels", "start", "whole", "taps"), [(1792, 1536, 3392, 4), (1792, 1536, 3352, 4), (300, 1, 305, 3)]
)
def test_conv_gradients(channels: int, start: int, whole: int, taps: int, dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    lengths = [*LENGTHS, 20_000, 1, 1]
    x, out = (projected(sum(lengths), start, channels, whole, dtype) for _ in range(2))
    grad = projected(sum(lengths), 0, channels, channels, dtype)
    weight, bias = torch.randn(channels, taps, device="cuda"), torch.randn(channels, device="cuda")
    pack = Pack.of(lengths, "cuda")
    with poisoned():
        found = packed_conv1d_backward(grad, x, weight, bias, pack, out=out)
        again = packed_conv1d_backward(grad, x, weight, bias, pack)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True) if a is not None and b is not None)
    wide = packed_conv1d_backward_reference(grad.double(), x.double(), weight.double(), bias.double(), pack)
    for a, b in zip(found, wide, strict=True):
        assert a is not None
        assert b is not None
        assert relative(a, b) < close
    for a, b in zip(found[0].split(lengths), wide[0].split(lengths), strict=True):
        assert relative(a, b) < close


@pytest.mark.parametrize("with_total", [False, True])
@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("width", [5, 768, 5120])
def test_add_rms_norm_gradients(width: int, dtype: torch.dtype, close: float, with_total: bool) -> None:
    torch.manual_seed(0)
    weight, total = torch.randn(width, device="cuda"), torch.randn(777, width, device="cuda")
    grad = torch.randn(777, width, device="cuda").to(dtype)
    of_total = torch.randn(777, width, device="cuda") if with_total else None
    with poisoned():
        found = add_rms_norm_backward(grad, of_total, total, weight, 1e-5)
        again = add_rms_norm_backward(grad, of_total, total, weight, 1e-5)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    exact = add_rms_norm_backward(
        grad.double(), None if of_total is None else of_total.double(), total.double(), weight.double(), 1e-5
    )
    assert relative(found.residual, exact.residual) < 1e-5
    assert torch.equal(found.x, found.residual.to(dtype))
    assert relative(found.weight, exact.weight) < 1e-5
    assert relative(found.normed, exact.normed) < close


@pytest.mark.parametrize(("dtype", "close"), DTYPES)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_gated_rms_norm_gradients(groups: int, dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    x, gate, grad = (projected(777, 0, 1536, whole, dtype) for whole in (1536, 3352, 1536))
    weight, into = torch.randn(1536, device="cuda"), projected(777, 0, 1536, 3352, dtype)
    with poisoned():
        found = gated_rms_norm_backward(grad, x, gate, weight, 1e-5, 1536 // groups, into)
        again = gated_rms_norm_backward(grad, x, gate, weight, 1e-5, 1536 // groups)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    exact = gated_rms_norm_backward(grad.double(), x.double(), gate.double(), weight.double(), 1e-5, 1536 // groups)
    for a, b in zip(found, exact, strict=True):
        assert relative(a, b) < close


def test_norms_give_a_gradient_when_one_is_asked_for() -> None:
    x = torch.randn(4, 64, device="cuda", requires_grad=True)
    weight = torch.ones(64, device="cuda", requires_grad=True)
    normed, total = add_rms_norm(x, x.detach(), weight, 1e-5)
    (gated_rms_norm(normed, total, weight, 1e-5, 64) ** 2).sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    assert bool(x.grad.isfinite().all())


def test_more_elements_than_31_bits_can_count() -> None:
    if torch.cuda.mem_get_info()[0] < 16 * 2**30:
        pytest.skip("needs 16 GiB of free device memory")
    length, channels = 1000, 1792
    documents = 2**31 // (length * channels) + 2
    x = torch.empty(documents * length, channels, dtype=torch.bfloat16, device="cuda").normal_()
    weight = torch.randn(channels, 4, device="cuda")
    last = x[-length:].clone()
    y, _ = packed_conv1d(x, weight, None, Pack.of([length] * documents, "cuda"))
    assert torch.equal(y[-length:], packed_conv1d(last, weight, None, Pack.of([length], "cuda"))[0])
    del y
    normed, total = add_rms_norm(x, x, weight[:, 0], 1e-5)
    expected, expected_total = add_rms_norm(last, last, weight[:, 0], 1e-5)
    assert torch.equal(normed[-length:], expected)
    assert torch.equal(total[-length:], expected_total)
    del normed, total
    assert torch.equal(
        gated_rms_norm(x, x, weight[:, 0], 1e-5, channels)[-length:],
        gated_rms_norm(last, last, weight[:, 0], 1e-5, channels),
    )
