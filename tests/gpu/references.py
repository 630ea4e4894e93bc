"""References of the presets' sizes with random weights, and text, both made of what is on any machine with Python."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from scorer.training.names import Preset
from scorer.training.presets import RECIPES
from scorer.training.tokens import save_tokenizer, train_tokenizer


def sources(limit: int) -> Iterator[str]:
    """Python's own sources, file after file, up to `limit` characters."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield text
        limit -= len(text)
        if limit <= 0:
            return


def make_reference(preset: Preset, folder: Path, tokenizer: Path) -> Path:
    """A model folder of the preset's shape; `tokenizer` is the file of one, made here if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = train_tokenizer(lambda: sources(4_000_000), 8192, tokenizer, lambda: None)
    torch.manual_seed(0)
    model = RECIPES[preset].build(-(-learned.get_vocab_size() // 16) * 16)
    weights = {name: p.detach().clone().contiguous() for name, p in model.module.named_parameters()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    save_tokenizer(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(model.config | {"bos_token_id": 0, "eos_token_id": 0}))
    return folder
