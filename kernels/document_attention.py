"""Causal self-attention for training: rows of documents, none of which sees another, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_WIDTHS = (16, 32, 64, 128)  # of a head, that the kernels take
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def document_attention(qkv: Tensor, positions: Tensor, ends: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ / sqrt(D)) v over the tokens up to each token in its own document.

    qkv [B, T, 3·H·D], queries, keys and values side by side; `positions` [B, T] int64, of each token in its document;
    `ends` [B, T] int64, the end of each token's document, counted over the rows laid end to end. A document lies in
    one row. Returns [B, T, H·D] in qkv's dtype, differentiable in qkv. Scores, softmax and sums are float32. Two runs
    give the same bits. On a GPU, heads of a width other than 16, 32, 64 or 128 take the reference.
    """
    if not qkv.is_cuda or qkv.dtype not in _DTYPES or qkv.shape[2] // (3 * heads) not in _WIDTHS:
        return document_attention_reference(qkv, positions, heads)
    out: Tensor = _attend(qkv.flatten(0, 1), positions.flatten(), ends.flatten(), heads)[0]
    return out.view(*qkv.shape[:2], -1)


def document_attention_reference(qkv: Tensor, positions: Tensor, heads: int) -> Tensor:
    """The specification: torch's attention with a mask over whole rows, in any dtype."""
    here = torch.arange(qkv.shape[1], device=qkv.device)
    back = here[:, None] - here
    seen = (back >= 0) & (back <= positions[:, :, None])  # [B, T, T]
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=2))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None]).transpose(1, 2).flatten(2)


@torch.library.custom_op("winnow::document_attention", mutates_args=())
def _attend(qkv: Tensor, positions: Tensor, ends: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Attention [N, H·D] of qkv [N, 3·H·D], and the logarithm to base 2 of each row's sum [H, N]."""
    from kernels.document_attention_triton import forward

    return forward(qkv, positions, heads)


@_attend.register_fake
def _(qkv: Tensor, positions: Tensor, ends: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    rows, width = qkv.shape
    return qkv.new_empty((rows, width // 3)), qkv.new_empty((heads, rows), dtype=torch.float32)


@torch.library.custom_op("winnow::document_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, qkv: Tensor, out: Tensor, log_sums: Tensor, positions: Tensor, ends: Tensor, heads: int
) -> Tensor:
    from kernels.document_attention_triton import backward

    return backward(grad, qkv, out, log_sums, positions, ends, heads)


@_attend_backward.register_fake
def _(grad: Tensor, qkv: Tensor, out: Tensor, log_sums: Tensor, positions: Tensor, ends: Tensor, heads: int) -> Tensor:
    return qkv.new_empty(qkv.shape)


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    qkv, positions, ends, ctx.heads = inputs
    ctx.save_for_backward(qkv, *output, positions, ends)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    qkv, out, log_sums, positions, ends = ctx.saved_tensors
    return _attend_backward(grad, qkv, out, log_sums, positions, ends, ctx.heads), None, None, None


_attend.register_autograd(_backward, setup_context=_keep)
