"""On a GPU: attention in training, values and gradients against float64, document by document."""

import pytest
import torch

from kernels.document_attention import document_attention
from tests.kernels.documents import attention_of_each, document_rows
from tests.kernels.helpers import poisoned, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

MIXED = [1, 2, 63, 64, 65, 127, 1000]


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)])
@pytest.mark.parametrize(
    ("lengths", "rows", "sequence", "heads", "width"),
    [
        ([*MIXED, 20_000], 1, 21_322, 2, 64),
        (MIXED, 3, 700, 3, 64),
        ([5, 300], 2, 77, 2, 32),
        ([1024], 2, 1024, 2, 128),
        ([100], 2, 256, 1, 16),
    ],
)
def test_values_and_gradients(
    lengths: list[int], rows: int, sequence: int, heads: int, width: int, dtype: torch.dtype, limit: float
) -> None:
    torch.manual_seed(0)
    positions, ends = document_rows(lengths, rows, sequence, "cuda")
    values = torch.randn(rows, sequence, 3 * heads * width, device="cuda").to(dtype)
    grad = torch.randn(rows, sequence, heads * width, device="cuda").to(dtype)
    runs = []
    for _ in range(2):
        qkv = values.clone().requires_grad_()
        with poisoned():
            out = document_attention(qkv, positions, ends, heads)
            out.backward(grad)
        assert qkv.grad is not None
        runs.append((out.detach(), qkv.grad))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
    exact = values.double().requires_grad_()
    expected = attention_of_each(exact, positions, heads)
    expected.backward(grad.double())
    assert exact.grad is not None
    out, found = runs[0]
    assert relative(out, expected.detach()) < limit
    for part, right in zip(found.chunk(3, dim=2), exact.grad.chunk(3, dim=2), strict=True):
        assert relative(part, right) < limit
