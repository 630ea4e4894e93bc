"""The kernel of packed attention in Triton's interpreter, against the reference; see conftest."""

import pytest
import torch
from torch import Tensor

from kernels.attention import packed_attention
from kernels.attention_triton import Tile, attention
from kernels.pack import Pack
from tests.kernels.helpers import attention_inputs, relative

LENGTHS = [65, 1, 64, 2, 127, 63]


def kernel(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Pack,
    softcap: float | None = None,
    window: int | None = None,
    causal: bool = True,
) -> Tensor:
    return attention(q, k, v, pack, q.shape[2] ** -0.5, softcap, window, Tile(64, 32, 4, 2), causal=causal)


@pytest.mark.parametrize(("softcap", "window"), [(None, None), (2.0, None), (None, 1), (None, 40), (None, 1000)])
@pytest.mark.parametrize(
    ("dtype", "width", "shared", "close"),
    [(torch.float32, 16, 1, 1e-5), (torch.float32, 80, 2, 1e-5), (torch.float16, 64, 3, 2e-3)],
)
def test_kernel_is_the_reference(
    dtype: torch.dtype, width: int, shared: int, close: float, softcap: float | None, window: int | None,
) -> None:  # fmt: skip
    q, k, v = attention_inputs(LENGTHS, heads=2 * shared, shared=shared, width=width, dtype=dtype)
    pack = Pack.of(LENGTHS, "cpu")
    expected = packed_attention(q.float(), k.float(), v.float(), pack, softcap=softcap, window=window)
    assert relative(kernel(q, k, v, pack, softcap, window), expected) < close


@pytest.mark.parametrize("window", [None, 1, 40, 1000])
@pytest.mark.parametrize(("dtype", "width", "close"), [(torch.float32, 16, 1e-5), (torch.float16, 64, 2e-3)])
def test_kernel_in_both_directions_is_the_reference(
    dtype: torch.dtype, width: int, close: float, window: int | None
) -> None:
    q, k, v = attention_inputs(LENGTHS, heads=2, shared=1, width=width, dtype=dtype)
    pack = Pack.of(LENGTHS, "cpu")
    expected = packed_attention(q.float(), k.float(), v.float(), pack, window=window, causal=False)
    assert relative(kernel(q, k, v, pack, None, window, causal=False), expected) < close


@pytest.mark.parametrize(
    ("dtype", "width", "close", "window"),
    [(torch.float32, 16, 1e-5, None), (torch.float32, 16, 1e-5, 1), (torch.float16, 64, 2e-3, 90)],
)
def test_kernel_goes_on_from_earlier_keys(dtype: torch.dtype, width: int, close: float, window: int | None) -> None:
    lengths, carried = [65, 1, 64], [39, 0, 130]
    pack = Pack.of(lengths, "cpu")
    keys = Pack.of([a + b for a, b in zip(lengths, carried, strict=True)], "cpu")
    q, _, _ = attention_inputs(lengths, heads=4, shared=2, width=width, dtype=dtype)
    _, k, v = attention_inputs(keys.lengths.tolist(), heads=4, shared=2, width=width, dtype=dtype)
    expected = packed_attention(q.float(), k.float(), v.float(), pack, window=window, keys=keys)
    found = attention(q, k, v, pack, width**-0.5, None, window, Tile(64, 32, 4, 2), keys=keys)
    assert relative(found, expected) < close
    k[:104] = k[105:] = 100.0  # all but the second document
    v[:104] = v[105:] = float("nan")
    again = attention(q, k, v, pack, width**-0.5, None, window, Tile(64, 32, 4, 2), keys=keys)
    assert torch.equal(again[65:66], found[65:66])


@pytest.mark.parametrize("causal", [True, False])
def test_kernel_reads_no_other_document(causal: bool) -> None:
    """Bit for bit alone as between others, though their keys are loud and their values no numbers."""
    lengths = [70, 1, 64, 70]
    q, k, v = attention_inputs(lengths, heads=2, shared=1, width=16, dtype=torch.float16)
    alone = kernel(*(m[71:135] for m in (q, k, v)), Pack.of([64], "cpu"), causal=causal)
    k[:71] = k[135:] = 100.0
    v[:71] = v[135:] = float("nan")
    assert torch.equal(kernel(q, k, v, Pack.of(lengths, "cpu"), causal=causal)[71:135], alone)
