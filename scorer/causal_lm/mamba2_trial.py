"""The trial of a Mamba-2 hybrid when it is loaded on a GPU: documents of a pack, in two parts, against each alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.pack import Pack
from scorer.causal_lm.mamba2_layers import Backbone
from scorer.causal_lm.mamba2_packed import packed_hidden
from scorer.causal_lm.recurrent_state import State

_PARTS = ((3, 70, 1), (66, 1, 9))  # tokens of three documents in the first and in the second pack
_CLOSE = {torch.float32: 1e-3}  # the distance of hidden states that rounding explains, relative, of norms
_CLOSE_16_BIT = 0.1  # over all layers of a deep model, whose stream over packs has 16 bits too


@torch.inference_mode()
def packs_as_alone(backbone: Backbone, alone: Callable[[Tensor], Tensor]) -> bool:
    """Whether packs give the hidden states of `alone`, ids [1, T] -> [1, T, hidden], except for rounding.

    The weights must be folded.
    """
    weight = backbone.embeddings.weight
    draw, device = torch.Generator().manual_seed(0), weight.device
    lengths = [sum(sizes) for sizes in zip(*_PARTS, strict=True)]
    documents = [torch.randint(len(weight), (length,), generator=draw).to(device) for length in lengths]
    wanted = torch.cat([alone(ids[None])[0] for ids in documents]).float()
    state: State | None = None
    parts = []
    for sizes in _PARTS:
        done = [0] * len(sizes) if state is None else state.read
        ids = torch.cat([d[at : at + size] for d, at, size in zip(documents, done, sizes, strict=True)])
        hidden, state = packed_hidden(backbone, ids, Pack.of(sizes, device), state, keep_state=True)
        parts.append(hidden.float().split(sizes))
    found = torch.cat([part for document in zip(*parts, strict=True) for part in document])
    close = _CLOSE.get(weight.dtype, _CLOSE_16_BIT)
    return bool((found - wanted).norm() <= close * wanted.norm())
