"""Self-attention over a pack of documents, causal or not, for transformers: no token sees another document."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.pack import Pack

WIDEST = 256  # head width
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_ROWS = 256  # queries at a time in the reference, to bound the memory of the scores


def packed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Pack,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
    *,
    causal: bool = True,
    keys: Pack | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ) v over the tokens up to each token in its own document, or with `causal` False over all.

    q [T, H, D], k and v [T, K, D], of one dtype (float32, float16 or bfloat16) and one device, for the T tokens of
    `pack`; the last axis contiguous, the others of any stride, as in slices of a fused projection. H is a multiple of
    K: neighbouring H/K heads share keys. D is at most 256. `scale` is positive, 1/sqrt(D) by default. `softcap` bounds
    the scores: softcap · tanh(score / softcap). `window` is the number of the last tokens that a token sees, itself
    included, and if not causal, also of the next ones; all by default. `keys`, causal only, is the layout of k and v
    where documents go on: the last tokens of each are those of `pack`, the tokens before them were read earlier.

    Returns [T, H, D] in q's dtype, contiguous. Scores, softmax and sums are float32, and products of float32 inputs
    have full precision. A document's result has the same bits wherever it lies in a pack. Forward only. Raises
    ValueError for unsupported arguments.
    """
    _check(q, k, v, pack, scale, softcap, window, causal, keys)
    scale = 1 / math.sqrt(q.shape[2]) if scale is None else scale
    if not q.is_cuda:
        return attention_reference(q, k, v, pack, scale, softcap, window, causal=causal, keys=keys)
    from kernels import attention_hopper, attention_triton

    if softcap is None and window is None and keys is None and attention_hopper.supports(q, k, v):
        return attention_hopper.attention(q, k, v, pack, scale, causal=causal)
    tile = attention_triton.fixed_tile(q)
    return attention_triton.attention(q, k, v, pack, scale, softcap, window, tile, causal=causal, keys=keys)


@torch.no_grad()
def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Pack,
    scale: float,
    softcap: float | None,
    window: int | None,
    *,
    causal: bool = True,
    keys: Pack | None = None,
) -> Tensor:
    """The specification: `packed_attention` in torch, document by document, in float32, or float64 if q is."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    shared = q.shape[1] // k.shape[1]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    end, keys_end = 0, 0
    for length, total in zip(pack.lengths.tolist(), (keys or pack).lengths.tolist(), strict=True):
        end, keys_end = end + length, keys_end + total
        document = slice(keys_end - total, keys_end)
        document_keys, values = (m[document].to(wide).repeat_interleave(shared, dim=1).transpose(0, 1) for m in (k, v))
        # Rows and keys are counted from the document's first key.
        for first in range(total - length, total, _ROWS):
            last = min(first + _ROWS, total)
            low = 0 if window is None else max(0, first - window + 1)
            high = last if causal else total if window is None else min(total, last + window - 1)
            place = slice(end - total + first, end - total + last)
            rows = q[place].to(wide).transpose(0, 1)
            scores = rows @ document_keys[:, low:high].mT * scale  # [H, R, D] @ [H, D, L] -> [H, R, L]
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            back = torch.arange(first, last, device=q.device)[:, None] - torch.arange(low, high, device=q.device)
            unseen = (back < 0) & causal
            if window is not None:
                unseen = unseen | (back.abs() >= window)
            weights = scores.masked_fill(unseen, float("-inf")).softmax(dim=2)
            out[place] = (weights @ values[:, low:high]).transpose(0, 1).to(q.dtype)
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pack: Pack,
    scale: float | None,
    softcap: float | None,
    window: int | None,
    causal: bool,
    keys: Pack | None,
) -> None:
    if q.dim() != 3 or k.dim() != 3 or v.shape != k.shape:
        raise ValueError(f"q must be [T, H, D], k and v [T, K, D]; got {[*q.shape]}, {[*k.shape]}, {[*v.shape]}")
    tokens, heads, width = q.shape
    if keys is not None and (
        not causal or keys.lengths.shape != pack.lengths.shape or (keys.lengths < pack.lengths).any()
    ):
        raise ValueError("keys must have the documents of the pack, each at least as long, and attention be causal")
    if tokens != pack.tokens or k.shape[0] != (keys or pack).tokens:
        wanted = f"{pack.tokens} tokens and {(keys or pack).tokens} keys"
        raise ValueError(f"the pack has {wanted}, q has {tokens}, k and v have {k.shape[0]}")
    if k.shape[2] != width or not 1 <= width <= WIDEST:
        raise ValueError(f"heads of q and k are {width} and {k.shape[2]} wide; they must agree, {WIDEST} at most")
    if k.shape[1] == 0 or heads % k.shape[1] or heads == 0:
        raise ValueError(f"{heads} heads of q cannot share {k.shape[1]} heads of k: give a multiple")
    if q.dtype not in _DTYPES or k.dtype != q.dtype or v.dtype != q.dtype:
        raise ValueError(f"q, k and v must be float32, float16 or bfloat16 alike; got {q.dtype}, {k.dtype}, {v.dtype}")
    if not q.device == k.device == v.device == pack.device == (keys or pack).device:
        raise ValueError(f"q, k, v and the pack lie on {q.device}, {k.device}, {v.device}, {pack.device}: use one")
    if any(m.stride(2) != 1 and width > 1 for m in (q, k, v)):
        raise ValueError("the last axis of q, k and v must be contiguous")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale is {scale}; it must be positive")
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap}; it must be positive, or None for no cap")
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; a token sees at least itself, or None for no limit")
