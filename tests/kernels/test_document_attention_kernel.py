"""The kernels of attention in training in Triton's interpreter, forward and backward, in float32."""

import pytest
import torch

from kernels.document_attention_triton import backward, forward
from tests.kernels.documents import attention_of_each, document_rows
from tests.kernels.helpers import poisoned, relative


@pytest.mark.parametrize(
    ("lengths", "rows", "sequence", "heads", "width"),
    [([1, 2, 63, 64, 65], 1, 213, 2, 16), ([127, 3], 2, 70, 1, 32), ([300], 1, 300, 1, 16), ([1], 1, 5, 1, 16)],
)
def test_values_and_gradients(lengths: list[int], rows: int, sequence: int, heads: int, width: int) -> None:
    torch.manual_seed(0)
    positions, ends = document_rows(lengths, rows, sequence)
    qkv = torch.randn(rows * sequence, 3 * heads * width)
    grad = torch.randn(rows * sequence, heads * width)
    with poisoned():
        out, log_sums = forward(qkv, positions.flatten(), heads)
        found = backward(grad, qkv, out, log_sums, positions.flatten(), ends.flatten(), heads)
    exact = qkv.double().view(rows, sequence, -1).requires_grad_()
    expected = attention_of_each(exact, positions, heads)
    expected.backward(grad.double().view_as(expected))
    assert exact.grad is not None
    assert relative(out, expected.detach().flatten(0, 1)) < 1e-5
    for part, right in zip(found.chunk(3, dim=1), exact.grad.flatten(0, 1).chunk(3, dim=1), strict=True):
        assert (part.double() - right).norm() <= 1e-4 * exact.grad.norm()
