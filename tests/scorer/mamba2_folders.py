"""Small Mamba-2 checkpoints with random weights, in both published layouts."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config

SMALL = Mamba2Config(vocab_size=96, hidden=32, layers=3, heads=4, head_dim=16, state=8, groups=2)


def random_weights(config: Mamba2Config, seed: int = 0) -> dict[str, Tensor]:
    """Weights that leave nothing at its neutral value and give sensible scores, under transformers' names."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in Mamba2(config).state_dict().items():
        noise = torch.randn(tensor.shape, generator=draw)
        if name.endswith(("norm.weight", "norm_f.weight", ".D")):
            weights[name] = 1 + 0.3 * noise
        elif name.endswith("dt_bias"):
            weights[name] = noise - 2
        else:
            weights[name] = 0.2 * noise
    return weights


def hugging_face(folder: Path, config: Mamba2Config = SMALL, weights: dict[str, Tensor] | None = None) -> Path:
    """A Hugging Face folder without tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    save_file(random_weights(config) if weights is None else weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def native_config(config: Mamba2Config = SMALL, **changes: Any) -> dict[str, Any]:
    """state-spaces' config.json of the same model; its vocabulary is said without the padding."""
    ssm = {"layer": "Mamba2", "d_state": config.state, "headdim": config.head_dim, "ngroups": config.groups}
    return {
        "d_model": config.hidden,
        "d_intermediate": 0,
        "n_layer": config.layers,
        "vocab_size": config.vocab_size - 3,
        "ssm_cfg": ssm | {"d_conv": config.conv_kernel, "expand": config.inner // config.hidden},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": config.tied,
    } | changes


def native_weights(config: Mamba2Config = SMALL) -> dict[str, Tensor]:
    """The same weights under state-spaces' names, the tied output matrix a second time as its checkpoints have it."""
    weights = {n.replace("embeddings", "embedding"): t for n, t in random_weights(config).items()}
    if config.tied:
        weights["lm_head.weight"] = weights["backbone.embedding.weight"].clone()
    return weights


def native(folder: Path, config: Mamba2Config = SMALL, **changes: Any) -> Path:
    """A native folder whose weights are in safetensors already."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(native_config(config, **changes)))
    save_file(native_weights(config), folder / "model.safetensors")
    return folder
