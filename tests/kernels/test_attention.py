"""Packed attention on a CPU, where the function is the reference: against torch's own, and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kernels.attention import packed_attention
from kernels.pack import Pack
from tests.kernels.helpers import attention_inputs

LENGTHS = [65, 1, 64, 2, 127, 63]


@pytest.mark.parametrize("causal", [True, False])
def test_each_document_is_torchs_attention(causal: bool) -> None:
    q, k, v = attention_inputs(LENGTHS, heads=4, shared=2, width=8, dtype=torch.float32)
    out = packed_attention(q, k, v, Pack.of(LENGTHS, "cpu"), causal=causal)
    parts = [m.split(LENGTHS) for m in (q, k, v)]
    for got, *document in zip(out.split(LENGTHS), *parts, strict=True):
        batch = [m.transpose(0, 1)[None] for m in document]
        expected = F.scaled_dot_product_attention(*batch, is_causal=causal, enable_gqa=True)
        torch.testing.assert_close(got, expected[0].transpose(0, 1))


def test_window_and_cap_by_hand() -> None:
    """Token 2 of a window of 2 sees tokens 1 and 2; its scores 0 and 100 are capped at 0 and 3 · tanh(100 / 3)."""
    q = torch.tensor([0.0, 0.0, 10.0]).view(3, 1, 1)
    k = torch.tensor([50.0, 0.0, 10.0]).view(3, 1, 1)
    v = torch.tensor([9.0, 1.0, 2.0]).view(3, 1, 1)
    out = packed_attention(q, k, v, Pack.of([3], "cpu"), scale=1.0, softcap=3.0, window=2)
    share = 1 / (1 + np.exp(-3.0))
    torch.testing.assert_close(out.flatten(), torch.tensor([9.0, 5.0, 1 + share], dtype=torch.float32))


def test_a_window_in_both_directions_by_hand() -> None:
    """With equal scores each of four tokens is the mean of itself and its neighbours."""
    q = k = torch.zeros(4, 1, 1)
    v = torch.tensor([3.0, 6.0, 0.0, 9.0]).view(4, 1, 1)
    out = packed_attention(q, k, v, Pack.of([4], "cpu"), window=2, causal=False)
    torch.testing.assert_close(out.flatten(), torch.tensor([4.5, 3.0, 5.0, 4.5]))


@pytest.mark.parametrize(("window", "carried"), [(None, [60, 0, 300, 2]), (50, [49, 0, 49, 2])])
def test_documents_go_on_from_earlier_keys(window: int | None, carried: list[int]) -> None:
    """The last tokens of documents, with the keys that a window needs of the tokens before."""
    read, new = [60, 0, 300, 2], [5, 70, 260, 1]
    whole = [a + b for a, b in zip(read, new, strict=True)]
    q, k, v = attention_inputs(whole, heads=4, shared=2, width=8, dtype=torch.float32)
    wanted = packed_attention(q, k, v, Pack.of(whole, "cpu"), window=window).split(whole)
    last = [torch.cat([d[-n:] for d, n in zip(q.split(whole), new, strict=True)])]
    kept = [a + b for a, b in zip(carried, new, strict=True)]
    last += [torch.cat([d[-n:] for d, n in zip(m.split(whole), kept, strict=True)]) for m in (k, v)]
    found = packed_attention(*last, Pack.of(new, "cpu"), window=window, keys=Pack.of(kept, "cpu"))
    for got, right, n in zip(found.split(new), wanted, new, strict=True):
        torch.testing.assert_close(got, right[-n:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(4, 3, 8), "v": torch.zeros(4, 3, 8)}, "4 heads of q cannot share 3"),
        ({"q": torch.zeros(5, 4, 8)}, "pack has 4 tokens and 4 keys, q has 5"),
        ({"q": torch.zeros(4, 4, 8, dtype=torch.float64)}, "must be float32, float16 or bfloat16"),
        ({"q": torch.zeros(4, 8, 4).mT}, "last axis"),
        ({"q": torch.zeros(4, 4, 257), "k": torch.zeros(4, 2, 257), "v": torch.zeros(4, 2, 257)}, "256 at most"),
        ({"window": 0}, "window is 0"),
        ({"softcap": 0.0}, "softcap is 0.0"),
        ({"scale": -1.0}, "scale is -1.0"),
        ({"keys": Pack.of([3], "cpu")}, "keys must have the documents of the pack"),
        ({"keys": Pack.of([5], "cpu")}, "4 tokens and 5 keys"),
    ],
)
def test_what_is_unsupported_is_named(change: dict[str, object], message: str) -> None:
    arguments = {"q": torch.zeros(4, 4, 8), "k": torch.zeros(4, 2, 8), "v": torch.zeros(4, 2, 8)}
    with pytest.raises(ValueError, match=message):
        packed_attention(**{**arguments, "pack": Pack.of([4], "cpu"), **change})
