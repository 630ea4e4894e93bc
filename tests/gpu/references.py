"""References of the presets' sizes and hybrids, with random weights, and text, made of what any machine has."""

import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import parse_config
from scorer.causal_lm.reference import Reference
from scorer.engine.scoring import score
from scorer.training.presets import RECIPES, initialise
from scorer.training.tokens import save_tokenizer, train_tokenizer

# The hybrids of the Mamba-2 paper, as changes to the native config of `mamba2-130m`: an MLP has the parameters of a
# mixer and takes the place of one; attention has mamba2attn-2.7b's share of the layers, and its proportions.
ATTENTION = {"causal": True, "num_heads": 18, "head_dim": 64, "d_conv": 4, "rotary_emb_dim": 32} | {
    "qkv_proj_bias": False,
    "out_proj_bias": False,
}
HYBRIDS: dict[str, dict[str, Any]] = {
    "mamba2-130m-attention": {"n_layer": 24, "attn_layer_idx": [8, 16], "attn_cfg": ATTENTION},
    "mamba2-130m-mlp": {"n_layer": 12, "d_intermediate": 1536},
    "mamba2-130m-both": {"n_layer": 12, "d_intermediate": 1536, "attn_layer_idx": [4, 8], "attn_cfg": ATTENTION},
}


def sources(limit: int) -> Iterator[str]:
    """Python's own sources, file after file, up to `limit` characters."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield text
        limit -= len(text)
        if limit <= 0:
            return


_SOURCES = [text for text in sources(200_000) if text][:12]
# Few are long, as a CPU reads them too.
TEXTS = [*[text[:3000] for text in _SOURCES[:3]], *[text[:500] for text in _SOURCES[3:]], "x", "", "a <|endoftext|> b"]


def make_reference(name: str, folder: Path, tokenizer: Path) -> Path:
    """A model folder of a preset's or hybrid's shape; `tokenizer` is the file of one, made here if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = train_tokenizer(lambda: sources(4_000_000), 8192, tokenizer, lambda: None)
    torch.manual_seed(0)
    rows = -(-learned.get_vocab_size() // 16) * 16
    module: torch.nn.Module
    if name in HYBRIDS:
        config = {"d_model": 768, "ssm_cfg": {"layer": "Mamba2"}, "pad_vocab_size_multiple": 16} | HYBRIDS[name]
        config |= {"vocab_size": rows, "rms_norm": True, "tie_embeddings": True}
        module = Mamba2(parse_config(folder, config))
        initialise(module)
    else:
        made = RECIPES[name].build(rows)
        module, config = made.module, made.config
    weights = {name: p.detach().clone().contiguous() for name, p in module.named_parameters()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    save_tokenizer(tokenizer, folder)
    (folder / "config.json").write_text(json.dumps(config | {"bos_token_id": 0, "eos_token_id": 0}))
    return folder


def per_token(reference: Reference, texts: list[str]) -> np.ndarray:
    """NLL a token of the texts that have any."""
    ((_, nll, n_tokens, *_),) = score(reference, [(texts, None)], on_progress=lambda *_: None)
    return (nll / np.maximum(n_tokens, 1))[n_tokens > 0]
