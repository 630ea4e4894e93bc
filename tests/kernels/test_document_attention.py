"""Attention in training on a CPU stays inside documents; its values and gradients."""

import torch

from kernels.document_attention import document_attention
from tests.kernels.documents import attention_of_each, document_rows


def test_each_document_attends_to_itself_alone() -> None:
    torch.manual_seed(0)
    positions, ends = document_rows([1, 2, 63, 64, 65], 2, 90)
    results = []
    for dtype in (torch.float32, torch.float64):
        qkv = torch.randn(2, 90, 3 * 2 * 16, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
        if dtype == torch.float32:
            out = document_attention(qkv, positions, ends, 2)
        else:
            out = attention_of_each(qkv, positions, 2)
        out.backward(torch.randn(2, 90, 32, generator=torch.Generator().manual_seed(1)).to(dtype))
        assert qkv.grad is not None
        results.append((out.detach(), qkv.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
