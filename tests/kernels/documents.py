"""Rows of documents for the tests of attention in training."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def document_rows(lengths: Sequence[int], rows: int, sequence: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Positions and ends [B, T] of documents of these lengths, again and again; one also begins with each row."""
    starts = set(range(0, rows * sequence, sequence))
    at = 0
    for length in itertools.cycle(lengths):
        at += length
        if at >= rows * sequence:
            break
        starts.add(at)
    borders = torch.tensor([*sorted(starts), rows * sequence])
    sizes = borders.diff()
    positions = torch.arange(rows * sequence) - borders[:-1].repeat_interleave(sizes)
    ends = borders[1:].repeat_interleave(sizes)
    return positions.view(rows, sequence).to(device), ends.view(rows, sequence).to(device)


def attention_of_each(qkv: Tensor, positions: Tensor, heads: int) -> Tensor:
    """What `document_attention` computes, in float64, one document after the other."""
    flat = qkv.double().flatten(0, 1)
    starts = [*(positions.flatten() == 0).nonzero().flatten().tolist(), len(flat)]
    found = []
    for first, end in itertools.pairwise(starts):
        q, k, v = (m.unflatten(1, (heads, -1)).transpose(0, 1) for m in flat[first:end].chunk(3, dim=1))
        scores = q @ k.mT / q.shape[2] ** 0.5
        unseen = torch.ones(end - first, end - first, dtype=torch.bool, device=qkv.device).triu(1)
        found.append((scores.masked_fill(unseen, float("-inf")).softmax(dim=2) @ v).transpose(0, 1).flatten(1))
    return torch.cat(found).view(*qkv.shape[:2], -1)
