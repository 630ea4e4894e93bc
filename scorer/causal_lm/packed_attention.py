"""Attention over packs for models of transformers, registered through its attention interface.

A model that uses the interface calls our function with queries, keys and values, and builds no mask for it. The pack is
passed beside the model, in a context variable; positions start at 0 in each document. Whether a model works this way is
tried when it is loaded (capabilities.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.attention import packed_attention
from kernels.pack import Pack

_CAUSAL, _BOTH_WAYS = "winnow_packed", "winnow_packed_both_ways"
_current_pack: ContextVar[Pack] = ContextVar("pack")


@torch.library.custom_op("winnow::attend", mutates_args=())
def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float, window: int, causal: bool) -> Tensor:
    """`packed_attention` over the current pack. A custom operator: the pack cannot be part of a compiled graph."""
    return packed_attention(q, k, v, _current_pack.get(), scale, softcap or None, window or None, causal=causal)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float, window: int, causal: bool) -> Tensor:
    return q.new_empty(q.shape)


def _attention_function(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    *,
    winnow_causal: bool,
    **_others: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls: query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D]."""
    if attention_mask is not None or query.shape[0] != 1:
        raise ValueError("the model builds its own attention mask")
    q, k, v = (m[0].transpose(0, 1) for m in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
    return _attend(q, k, v, scale, softcap or 0.0, sliding_window or 0, winnow_causal)[None], None


def positions(pack: Pack) -> Tensor:
    """Each token's position in its document, [1, T] int64."""
    before, lengths = pack.cu_seqlens[:-1].long(), pack.cu_seqlens.diff()
    in_pack = torch.arange(pack.tokens, device=pack.device)
    return (in_pack - before.repeat_interleave(lengths, output_size=pack.tokens))[None]


def use_packed_attention(model: Any, *, causal: bool = True) -> bool:
    """Switches the model to attention over packs, up to each token or in both directions.

    False if it does not use transformers' attention interface.
    """
    from transformers import AttentionInterface

    if not getattr(model, "_can_set_attn_implementation", lambda: False)():
        return False
    name = _CAUSAL if causal else _BOTH_WAYS
    AttentionInterface.register(name, partial(_attention_function, winnow_causal=causal))
    model.set_attn_implementation(name)
    return True


@contextmanager
def attend_over(pack: Pack) -> Iterator[None]:
    """Inside, attention is over the documents of this pack."""
    token = _current_pack.set(pack)
    try:
        yield
    finally:
        _current_pack.reset(token)
