"""Training on from a given reference: its weights and tokenizer, as they are in its folder."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as FastTokenizer

from scorer.causal_lm.checkpoint import read_config
from scorer.causal_lm.mamba2 import load_mamba2
from scorer.causal_lm.mamba2_config import is_mamba, parse_config
from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import Tokenizer
from scorer.training.names import Preset
from scorer.training.presets import RECIPES, Recipe, TrainingModel, of_gpt2, of_mamba2

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Saved:
    """Makes the model of a folder."""

    folder: Path

    def __call__(self, _rows: int) -> TrainingModel:
        """The model, on the CPU in float32."""
        config = read_config(self.folder)
        if is_mamba(config):
            mamba = load_mamba2(self.folder, torch.float32, "cpu")
            return of_mamba2(mamba.requires_grad_(True), mamba.config.to_json())
        from transformers import GPT2LMHeadModel

        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = GPT2LMHeadModel.from_pretrained(self.folder, dtype=torch.float32, use_cache=False, **dropout)
        return of_gpt2(model, config | dropout)


@dataclass(frozen=True)
class Initial:
    """A reference to go on from. `rows` are those of its vocabulary, `start` is the token before a document."""

    folder: Path
    preset: Preset
    recipe: Recipe
    rows: int
    start: int

    def tokenizer(self) -> FastTokenizer:
        """Its tokenizer, which reads all of a document as text."""
        tokenizer = FastTokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def copy_tokenizer(self, folder: Path) -> None:
        """Puts the files of its tokenizer into a folder."""
        for name in _TOKENIZER:
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, folder / name)


def initial(folder: Path) -> Initial:
    """Reads what a training needs to know of a reference. Raises BadReference for one that cannot be trained here."""
    config = read_config(folder)
    kind = config.get("model_type")
    if not is_mamba(config) and kind != "gpt2":
        raise BadReference(f"{folder}: a model of type {kind!r} cannot be trained on; name a GPT-2 or Mamba-2 model")
    if is_mamba(config) and parse_config(folder, config).hybrid:
        raise BadReference(f"{folder}: a hybrid of Mamba-2 cannot be trained on; name a GPT-2 or Mamba-2 model")
    if not (folder / "tokenizer.json").is_file():
        raise BadReference(f"{folder}: no tokenizer.json; a training needs one")
    tokenizer, rows = Tokenizer(folder), int(config["vocab_size"])
    if tokenizer.bos is None:
        raise BadReference(f"{folder}: its tokenizer has no token before a document (BOS or EOS)")
    if rows > 1 << 16:
        raise BadReference(f"{folder}: a vocabulary of {rows:,} is too large to train on; at most 65,536 entries")
    preset = _preset(folder, "mamba2-130m" if is_mamba(config) else "gpt2-124m")
    recipe = replace(RECIPES[preset], build=Saved(folder))
    if not is_mamba(config):
        recipe = replace(recipe, sequence=min(recipe.sequence, int(config.get("n_positions", 1024))))
    return Initial(folder, preset, recipe, rows, tokenizer.bos)


def _preset(folder: Path, otherwise: Preset) -> Preset:
    """The preset that a reference was trained as here, which says how it learns."""
    try:
        said: Any = json.loads((folder / "training.json").read_bytes())
        name = said.get("preset")
    except (OSError, ValueError, AttributeError):
        return otherwise
    return name if name in RECIPES else otherwise
