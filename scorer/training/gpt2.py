"""GPT-2 in training: transformers' modules, run over packs of documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.document_attention import document_attention
from scorer.training.batches import Batch

Blocks = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


class Gpt2Hidden:
    """Maps a batch to the hidden states of a `GPT2LMHeadModel` without dropout, [B·T, D]."""

    def __init__(self, model: Any) -> None:
        self.model = model.transformer
        self._compiled: Blocks | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """As torch runs it."""
        return self._run(batch, _blocks)

    def compiled(self, batch: Batch) -> Tensor:
        """Compiled for a GPU, for batches of one shape. Its first call takes a minute."""
        if self._compiled is None:
            from torch._inductor import config as settings

            options: dict[str, Any] = {}
            if hasattr(settings, "deterministic"):  # since torch 2.10
                options["deterministic"] = True
            self._compiled = torch.compile(_blocks, dynamic=False, options=options)
        return self._run(batch, self._compiled)

    def _run(self, batch: Batch, blocks: Blocks) -> Tensor:
        # Embeddings are left out of what is compiled: torch's own gradient of them is deterministic.
        x = self.model.wte(batch.ids) + self.model.wpe(batch.positions)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))  # the residual stream is narrow, and so are its gradients
        return blocks(self.model, x, batch.positions, batch.ends).flatten(0, 1)


def _blocks(model: Any, x: Tensor, positions: Tensor, ends: Tensor) -> Tensor:
    """All after the embeddings, [B, T, D] -> [B, T, D]."""
    heads = model.config.n_head
    for block in model.h:
        qkv = block.attn.c_attn(block.ln_1(x))
        x = x + block.attn.c_proj(document_attention(qkv, positions, ends, heads))
        x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x)), approximate="tanh"))
    return model.ln_f(x)  # type: ignore[no-any-return]
