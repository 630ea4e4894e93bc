"""Runs a transformers model's body over packs: attention is given a pack's documents by a function of our own.

transformers lets an attention function be registered by name; a model that uses the interface hands it queries, keys
and values, and builds no mask for it. Positions start anew with each document. Whether all of that holds for a model is
not believed but tried: see `Transformer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from kernels.attention import packed_attention
from kernels.pack import Pack

NAME = "winnow_packed"
_pack: ContextVar[Pack] = ContextVar("pack")


@torch.library.custom_op("winnow::attend", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float, window: int) -> Tensor:
    """`packed_attention` over the pack at hand; opaque to the compiler, as that pack is no part of its graph."""
    return packed_attention(q, k, v, _pack.get(), scale, softcap or None, window or None)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float, window: int) -> Tensor:
    return q.new_empty(q.shape)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D]."""
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError("the model masks attention in a way of its own")
    q, k, v = (m[0].transpose(0, 1) for m in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return _attend(q, k, v, scale, softcap or 0.0, sliding_window or 0)[None], None


def positions(pack: Pack) -> Tensor:
    """Each token's place in its document, [1, T] int64."""
    before, lengths = pack.cu_seqlens[:-1].long(), pack.cu_seqlens.diff()
    places = torch.arange(pack.tokens, device=pack.device)
    return (places - before.repeat_interleave(lengths, output_size=pack.tokens))[None]


def switch(model: Any) -> bool:
    """Has the model attend by packs from now on; False if it does not use transformers' interface."""
    from transformers import AttentionInterface

    if not getattr(model, "_can_set_attn_implementation", lambda: False)():
        return False
    AttentionInterface.register(NAME, _attention)
    model.set_attn_implementation(NAME)
    return True


@contextmanager
def at_hand(pack: Pack) -> Iterator[None]:
    """Attention inside is over this pack."""
    token = _pack.set(pack)
    try:
        yield
    finally:
        _pack.reset(token)
