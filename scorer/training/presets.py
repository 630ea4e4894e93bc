"""How each preset is made and trained: its shape, its first weights and its training settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.training.batches import Batch
from scorer.training.gpt2 import Gpt2Hidden
from scorer.training.muon import Part
from scorer.training.names import OptimizerName, Preset

_ALL = slice(None)


@dataclass(frozen=True)
class TrainingModel:
    """A model to train. `hidden` maps a batch to hidden states [B·T, D]; their logits are hidden @ head.T."""

    module: nn.Module
    hidden: Callable[[Batch], Tensor]
    head: Tensor  # [V, D]
    config: dict[str, Any]  # what config.json is to say
    matrices: list[tuple[Tensor, Part]]  # of hidden layers: a parameter, and the part of it that is one matrix
    compiled: Callable[[Batch], Tensor]  # `hidden` for a GPU; it can be captured in a CUDA graph


@dataclass(frozen=True)
class Recipe:
    """How a reference is made and trained. A batch is run `micro_cpu` or `micro_gpu` sequences at a time, at most."""

    build: Callable[[int], TrainingModel]  # from the number of rows of the vocabulary
    vocabulary: int  # tokens that the tokenizer may learn
    sequence: int  # tokens of a sequence
    batch: int  # sequences of an optimizer step, of a training of `budget` tokens
    budget: int
    micro_cpu: int
    micro_gpu: int
    optimizer: OptimizerName
    learning_rate: float  # AdamW's
    muon_learning_rates: tuple[float, float]  # of the hidden matrices, and of the rest


@dataclass(frozen=True)
class Mamba2Shape:
    """Makes Mamba-2 models with first weights, by the number of rows of the vocabulary."""

    hidden: int
    layers: int
    inner: int
    state: int
    tied: bool = True

    def __call__(self, rows: int) -> TrainingModel:
        """A model with first weights, drawn from torch's generator."""
        config = Mamba2Config(
            vocab_size=rows,
            hidden=self.hidden,
            layers=self.layers,
            heads=self.inner // 64,
            head_dim=64,
            state=self.state,
            tied=self.tied,
        )
        model = Mamba2(config)
        initialise(model)
        return of_mamba2(model, config.to_json())


def of_mamba2(model: Mamba2, config: dict[str, Any]) -> TrainingModel:
    """A model to train. The state begins anew at each document of a row."""
    c = model.config
    sizes = (c.inner, c.inner, c.groups * c.state, c.groups * c.state, c.heads)  # gate, x, B, C and dt of in_proj
    ends = list(itertools.accumulate(sizes))
    matrices: list[tuple[Tensor, Part]] = []
    layers: Any = model.backbone.layers
    for layer in layers:
        fused = layer.mixer.in_proj.weight
        matrices += [(fused, (slice(end - size, end), _ALL)) for size, end in zip(sizes, ends, strict=True)]
        matrices.append((layer.mixer.out_proj.weight, (_ALL, _ALL)))

    def hidden(batch: Batch) -> Tensor:
        found: Tensor = model(batch.ids, positions=batch.positions)[0]
        return found.flatten(0, 1)

    return TrainingModel(model, hidden, model.head, config, matrices, compiled=hidden)


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


@dataclass(frozen=True)
class Gpt2Shape:
    """Makes GPT-2 models with first weights, by the number of rows of the vocabulary."""

    hidden: int
    layers: int
    heads: int
    positions: int = 1024

    def __call__(self, rows: int) -> TrainingModel:
        """A model with first weights, drawn from torch's generator."""
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = {"vocab_size": rows, "n_embd": self.hidden, "n_layer": self.layers, "n_head": self.heads}
        shape["n_positions"] = self.positions
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(**shape, **dropout, bos_token_id=0, eos_token_id=0, use_cache=False)
        saved = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}
        return of_gpt2(GPT2LMHeadModel(config), saved | shape | dropout)


def of_gpt2(model: Any, config: dict[str, Any]) -> TrainingModel:
    """A model to train: a `GPT2LMHeadModel` without dropout, and what its config.json is to say."""
    matrices: list[tuple[Tensor, Part]] = []
    for block in model.transformer.h:
        fused, width = block.attn.c_attn.weight, model.config.n_embd  # queries, keys and values side by side
        matrices += [(fused, (_ALL, slice(at, at + width))) for at in range(0, 3 * width, width)]
        matrices += [(part.weight, (_ALL, _ALL)) for part in (block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)]
    hidden = Gpt2Hidden(model)
    return TrainingModel(model, hidden, model.lm_head.weight, config, matrices, hidden.compiled)


def _proxy(
    hidden: int,
    layers: int,
    heads: int,
    vocabulary: int,
    micro_gpu: int,
    learning_rate: float,
    sequence: int = 1024,
    batch: int = 16,
) -> Recipe:
    """A small model for ablations, whose order of selections is to hold for others: GPT-2's shape, and AdamW."""
    return Recipe(
        Gpt2Shape(hidden, layers, heads, sequence),
        vocabulary=vocabulary,
        sequence=sequence,
        batch=batch,
        budget=20_000_000,
        micro_cpu=4,
        micro_gpu=micro_gpu,
        optimizer="adamw",
        learning_rate=learning_rate,
        muon_learning_rates=(2 * learning_rate, learning_rate),
    )


RECIPES: dict[Preset, Recipe] = {
    # Sized so that its default two million tokens take about a minute and a half on two cores. Two layers take a third
    # longer for one per cent fewer bits a byte on held-out text; smaller vocabularies save less than they lose.
    "tiny": Recipe(
        Mamba2Shape(hidden=256, layers=1, inner=256, state=32, tied=False),
        vocabulary=4096,
        sequence=512,
        batch=4,
        budget=2_000_000,
        micro_cpu=4,
        micro_gpu=4,
        optimizer="adamw",
        learning_rate=4e-3,
        muon_learning_rates=(1e-2, 4e-3),
    ),
    # The shape of state-spaces/mamba2-130m.
    "mamba2-130m": Recipe(
        Mamba2Shape(hidden=768, layers=24, inner=1536, state=128),
        vocabulary=50_304,
        sequence=1024,
        batch=16,
        budget=20_000_000,
        micro_cpu=1,
        micro_gpu=64,
        optimizer="muon",
        learning_rate=1.2e-3,
        muon_learning_rates=(2e-3, 4e-3),
    ),
    # The shape of GPT-2's smallest model, without dropout.
    "gpt2-124m": Recipe(
        Gpt2Shape(hidden=768, layers=12, heads=12),
        vocabulary=50_304,
        sequence=1024,
        batch=16,
        budget=20_000_000,
        micro_cpu=1,
        micro_gpu=32,
        optimizer="muon",
        learning_rate=6e-4,
        muon_learning_rates=(4e-3, 1e-3),
    ),
    "nano": _proxy(
        128, 3, 2, vocabulary=2048, micro_gpu=64, learning_rate=4e-3, sequence=256, batch=32
    ),  # 0.6 M + 0.3 M
    "4m": _proxy(256, 4, 4, vocabulary=4096, micro_gpu=64, learning_rate=3e-3, sequence=512),  # 3.2 M + 1.0 M
    "10m": _proxy(320, 8, 5, vocabulary=16_384, micro_gpu=64, learning_rate=2e-3),  # 9.9 M + 5.2 M
    "30m": _proxy(512, 10, 8, vocabulary=16_384, micro_gpu=32, learning_rate=1.5e-3),  # 31.5 M + 8.4 M
    "124m": _proxy(768, 12, 12, vocabulary=50_304, micro_gpu=32, learning_rate=6e-4),  # 85 M + 38.6 M
}
