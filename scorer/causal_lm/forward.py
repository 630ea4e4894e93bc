"""Forward passes of a causal LM of transformers: whole, only its body, or only its head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.pack import Pack
from scorer.causal_lm.compiled import Run
from scorer.causal_lm.packed_attention import attend_over, positions
from scorer.causal_lm.padding import pad, unpad


@dataclass(frozen=True)
class Body:
    """The module of a model that makes hidden states of token ids, and the type of its output."""

    module: Any
    output: type

    def run(self, ids: Tensor, places: Tensor) -> Tensor:
        """Over a row: ids [1, T] int64 and their positions [1, T] int64 -> hidden states [1, T, D]."""
        return body_hidden(self.module, ids, places)


@torch.inference_mode()
def whole_logits(model: Any, ids: Tensor) -> Tensor:
    """The model's own logits: ids [B, T] int64 -> [B, T, V]."""
    logits: Tensor = model(input_ids=ids).logits
    return logits


@torch.inference_mode()
def head_logits(model: Any, body: Body, hidden: Tensor) -> Tensor:
    """The logits that the model's own forward pass makes of hidden states: [B, T, D] -> [B, T, V]."""
    body.module.forward = lambda *_args, **_kwargs: body.output(last_hidden_state=hidden)
    try:
        return whole_logits(model, torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device))
    finally:
        del body.module.forward


@torch.inference_mode()
def rows_hidden(body: Body, ids: Tensor) -> Tensor:
    """The body over rows that are each a document: ids [B, T] int64 -> hidden states [B, T, D]."""
    hidden: Tensor = body.module(input_ids=ids).last_hidden_state
    return hidden


@torch.inference_mode()
def documents_hidden(body: Body, ids: Tensor, pack: Pack, one_by_one: bool) -> Tensor:
    """The body over a pack's documents as padded rows, or `one_by_one`: ids [T] int64 -> hidden states [T, D]."""
    if one_by_one:
        return torch.cat([rows_hidden(body, document[None])[0] for document in ids.split(pack.lengths.tolist())])
    return unpad(rows_hidden(body, pad(ids, pack)), pack)


def body_hidden(module: Any, ids: Tensor, places: Tensor) -> Tensor:
    """The body over a row: ids [1, T] int64 and their positions [1, T] int64 -> hidden states [1, T, D]."""
    hidden: Tensor = module(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
    return hidden


@torch.inference_mode()
def pack_hidden(run: Run, ids: Tensor, pack: Pack) -> Tensor:
    """A body that uses packed attention, over a whole pack: ids [T] int64 -> hidden states [T, D]."""
    with attend_over(pack):
        return run(ids[None], positions(pack))[0]
