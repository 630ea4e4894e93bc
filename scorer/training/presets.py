"""How each preset is made and trained: its shape, its first weights and its training settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.training.names import Preset


@dataclass(frozen=True)
class TrainingModel:
    """A model to train. `hidden` maps ids [B, T] to hidden states [B, T, D]; their logits are hidden @ head.T."""

    module: nn.Module
    hidden: Callable[[Tensor], Tensor]
    head: Tensor  # [V, D]
    config: dict[str, Any]  # what config.json is to say


@dataclass(frozen=True)
class Recipe:
    """How a reference is made and trained. A batch is run `micro_cpu` or `micro_gpu` sequences at a time."""

    build: Callable[[int], TrainingModel]  # from the number of rows of the vocabulary
    vocabulary: int  # tokens that the tokenizer may learn
    sequence: int  # tokens of a sequence
    batch: int  # sequences of an optimizer step
    micro_cpu: int
    micro_gpu: int
    learning_rate: float


def _mamba2(hidden: int, layers: int, inner: int, state: int, tied: bool = True) -> Callable[[int], TrainingModel]:
    def build(rows: int) -> TrainingModel:
        config = Mamba2Config(
            vocab_size=rows, hidden=hidden, layers=layers, heads=inner // 64, head_dim=64, state=state, tied=tied
        )
        model = Mamba2(config)
        initialise(model)
        return TrainingModel(model, lambda ids: model(ids)[0], model.head, config.to_json())

    return build


@torch.no_grad()
def initialise(model: Mamba2) -> None:
    """Sets the first weights as state-spaces' training code does; a parameter that is not named here keeps torch's.

    Decay rates A uniform in [1, 16], time steps log-uniform in [0.001, 0.1], D one, output projections scaled down by
    the square root of the depth, embeddings normal with deviation 0.02.
    """
    for name, p in model.named_parameters():
        if name.endswith("A_log"):
            p.uniform_(1, 16).log_()
        elif name.endswith("dt_bias"):
            step = torch.exp(torch.empty_like(p).uniform_(math.log(1e-3), math.log(0.1)))
            p.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
        elif name.endswith(".D"):
            p.fill_(1)
        elif name.endswith("out_proj.weight"):
            p.div_(math.sqrt(model.config.layers))
        elif name.endswith(("embeddings.weight", "lm_head.weight")):
            p.normal_(0, 0.02)


def _gpt2(hidden: int, layers: int, heads: int) -> Callable[[int], TrainingModel]:
    def build(rows: int) -> TrainingModel:
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = {"vocab_size": rows, "n_embd": hidden, "n_layer": layers, "n_head": heads}
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(**shape, **dropout, bos_token_id=0, eos_token_id=0, use_cache=False)
        model = GPT2LMHeadModel(config)
        saved = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_positions": config.n_positions}
        return TrainingModel(
            model,
            lambda ids: model.transformer(input_ids=ids).last_hidden_state,
            model.lm_head.weight,
            saved | shape | dropout,
        )

    return build


RECIPES: dict[Preset, Recipe] = {
    # Sized so that its default two million tokens take about a minute and a half on two cores. Two layers take a third
    # longer for one per cent fewer bits a byte on held-out text; smaller vocabularies save less than they lose.
    "tiny": Recipe(
        _mamba2(hidden=256, layers=1, inner=256, state=32, tied=False),
        vocabulary=4096,
        sequence=512,
        batch=4,
        micro_cpu=4,
        micro_gpu=4,
        learning_rate=4e-3,
    ),
    # The shape of state-spaces/mamba2-130m.
    "mamba2-130m": Recipe(
        _mamba2(hidden=768, layers=24, inner=1536, state=128),
        vocabulary=50_304,
        sequence=1024,
        batch=128,
        micro_cpu=1,
        micro_gpu=8,
        learning_rate=1.2e-3,
    ),
    # The shape of GPT-2's smallest model, without dropout.
    "gpt2-124m": Recipe(
        _gpt2(hidden=768, layers=12, heads=12),
        vocabulary=50_304,
        sequence=1024,
        batch=128,
        micro_cpu=1,
        micro_gpu=16,
        learning_rate=6e-4,
    ),
}
