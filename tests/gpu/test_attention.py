"""On a GPU: packed attention against its reference in float64, bit for bit alone as in a pack, and on large arrays."""

import pytest
import torch
from torch import Tensor

from kernels.attention import attention_reference, packed_attention
from kernels.pack import Pack
from tests.kernels.helpers import attention_inputs, poisoned

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LENGTHS = [63, 1000, 1, 64, 9000, 2, 65, 127, 128, 129, 192]
SHORT = [63, 300, 1, 64, 2, 65, 127]


@pytest.fixture(params=["chosen", "portable"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "portable":
        monkeypatch.setattr("kernels.attention_hopper.supports", lambda *_: False)


def check(
    lengths: list[int],
    inputs: tuple[Tensor, Tensor, Tensor],
    softcap: float | None = None,
    window: int | None = None,
    causal: bool = True,
) -> None:
    """Within rounding of float64 in relative norm, over all and on every document."""
    q, k, v = inputs
    pack = Pack.of(lengths, "cuda")
    with poisoned():
        out = packed_attention(q, k, v, pack, softcap=softcap, window=window, causal=causal)
    wide = (m.double() for m in inputs)
    expected = attention_reference(*wide, pack, q.shape[2] ** -0.5, softcap, window, causal=causal)
    close = 1e-4 if q.dtype == torch.float32 else 5e-3
    for got, right in zip(out.split(lengths), expected.split(lengths), strict=True):
        assert (got.double() - right).norm() < close * right.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_documents_of_all_lengths(dtype: torch.dtype) -> None:
    check(LENGTHS, attention_inputs(LENGTHS, heads=2, shared=1, width=64, dtype=dtype, device="cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [8, 32, 64, 80, 96, 128, 256])
def test_head_widths_and_shared_keys(width: int, dtype: torch.dtype) -> None:
    check(SHORT, attention_inputs(SHORT, heads=6, shared=3, width=width, dtype=dtype, device="cuda"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [1, 50, 128, 4000])
def test_windows_and_caps(window: int, softcap: float | None, dtype: torch.dtype) -> None:
    check(SHORT, attention_inputs(SHORT, heads=2, shared=1, width=64, dtype=dtype, device="cuda"), softcap, window)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 65])
def test_both_directions(window: int | None, dtype: torch.dtype) -> None:
    inputs = attention_inputs(LENGTHS, heads=2, shared=1, width=64, dtype=dtype, device="cuda")
    check(LENGTHS, inputs, window=window, causal=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 1, 50, 8192])
def test_documents_go_on_from_earlier_keys(window: int | None, dtype: torch.dtype) -> None:
    lengths, carried = SHORT, [8191, 0, 63, 64, 5000, 1, 300]
    pack, keys = Pack.of(lengths, "cuda"), Pack.of([a + b for a, b in zip(lengths, carried, strict=True)], "cuda")
    q, _, _ = attention_inputs(lengths, heads=6, shared=3, width=64, dtype=dtype, device="cuda")
    _, k, v = attention_inputs(keys.lengths.tolist(), heads=6, shared=3, width=64, dtype=dtype, device="cuda")
    with poisoned():
        out = packed_attention(q, k, v, pack, window=window, keys=keys)
    wide = (m.double() for m in (q, k, v))
    expected = attention_reference(*wide, pack, 64**-0.5, None, window, keys=keys)
    close = 1e-4 if dtype == torch.float32 else 5e-3
    for got, right in zip(out.split(lengths), expected.split(lengths), strict=True):
        assert (got.double() - right).norm() < close * right.norm()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 64), (torch.bfloat16, 64), (torch.bfloat16, 128)])
def test_the_same_bits_alone_and_anywhere_in_a_pack(dtype: torch.dtype, width: int, causal: bool) -> None:
    def attend(lengths: list[int], *inputs: Tensor) -> Tensor:
        return packed_attention(*inputs, Pack.of(lengths, "cuda"), causal=causal)

    q, k, v = attention_inputs(LENGTHS, heads=4, shared=2, width=width, dtype=dtype, device="cuda")
    out = attend(LENGTHS, q, k, v)
    for _ in range(20):  # a race would show
        assert torch.equal(attend(LENGTHS, q, k, v), out)
    documents = list(zip(*(m.split(LENGTHS) for m in (q, k, v)), strict=True))
    backwards = [torch.cat(parts) for parts in zip(*documents[::-1], strict=True)]
    reordered = attend(LENGTHS[::-1], *backwards).split(LENGTHS[::-1])[::-1]
    for document, length, whole, moved in zip(documents, LENGTHS, out.split(LENGTHS), reordered, strict=True):
        assert torch.equal(moved, whole)
        assert torch.equal(attend([length], *document), whole)


@pytest.mark.parametrize("causal", [True, False])
def test_other_documents_are_not_read(causal: bool) -> None:
    q, k, v = attention_inputs(SHORT, heads=2, shared=1, width=64, dtype=torch.bfloat16, device="cuda")
    first, last = SHORT[0], SHORT[0] + SHORT[1]
    pack = Pack.of([SHORT[1]], "cuda")
    alone = packed_attention(q[first:last], k[first:last], v[first:last], pack, causal=causal)
    for m in (q, k, v):
        m[:first] = m[last:] = float("nan")
    assert torch.equal(packed_attention(q, k, v, Pack.of(SHORT, "cuda"), causal=causal)[first:last], alone)


def test_more_elements_than_31_bits_can_count() -> None:
    length, heads, width = 1000, 12, 64
    documents = 2**31 // (length * heads * width) + 2
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free device memory")
    x = torch.empty(documents * length, heads, width, dtype=torch.bfloat16, device="cuda").normal_()
    out = packed_attention(x, x, x, Pack.of([length] * documents, "cuda"))
    last = x[-length:].clone()
    assert torch.equal(out[-length:], packed_attention(last, last, last, Pack.of([length], "cuda")))
