"""The shape of a Mamba-2 model, read from a Hugging Face config.json or from a native state-spaces one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorer.errors import BadReference

# Keys of a native `ssm_cfg` that say only how weights were made or which kernel runs, not what the model computes.
_NATIVE_IGNORED = {"layer", "chunk_size", "use_mem_eff_path", "conv_init", "A_init_range", "dt_min", "dt_max"} | {
    "dt_init_floor"
}
# What a native `ssm_cfg` may say, with state-spaces' defaults: (our field, default).
_NATIVE_SHAPE: dict[str, tuple[str, Any]] = {
    "d_state": ("state", 128),
    "d_conv": ("conv_kernel", 4),
    "headdim": ("head_dim", 64),
    "ngroups": ("groups", 1),
    "bias": ("proj_bias", False),
    "conv_bias": ("conv_bias", True),
}
# Variants that no published Mamba-2 language model uses and that this one does not compute: the value it needs.
_NATIVE_FIXED: dict[str, Any] = {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False}


@dataclass(frozen=True)
class Mamba2Config:
    """Sizes of a model. `vocab_size` counts the rows of the embedding, padding rows included."""

    vocab_size: int
    hidden: int
    layers: int
    heads: int
    head_dim: int
    state: int
    groups: int = 1
    conv_kernel: int = 4
    eps: float = 1e-5
    dt_limit: tuple[float, float] = (0.0, math.inf)
    proj_bias: bool = False
    conv_bias: bool = True
    tied: bool = True

    @property
    def inner(self) -> int:
        """Channels inside a mixer."""
        return self.heads * self.head_dim

    def to_json(self) -> dict[str, Any]:
        """The Hugging Face config.json of this model, every field that transformers' defaults would get wrong set."""
        return {
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_heads": self.heads,
            "head_dim": self.head_dim,
            "expand": self.inner // self.hidden,
            "state_size": self.state,
            "n_groups": self.groups,
            "conv_kernel": self.conv_kernel,
            "chunk_size": 256,
            "hidden_act": "silu",
            "layer_norm_epsilon": self.eps,
            "residual_in_fp32": True,
            "time_step_limit": [x if math.isfinite(x) else {"__float__": "Infinity"} for x in self.dt_limit],
            "use_bias": self.proj_bias,
            "use_conv_bias": self.conv_bias,
            "tie_word_embeddings": self.tied,
        }


def is_mamba(raw: dict[str, Any]) -> bool:
    """Whether a config.json describes a Mamba model, of either layout; `parse_config` refuses what is not Mamba-2."""
    if "model_type" in raw:
        return raw["model_type"] in ("mamba", "mamba2")
    return "d_model" in raw and "n_layer" in raw


def parse_config(source: Path, raw: dict[str, Any]) -> Mamba2Config:
    """The sizes in a config.json, either layout. `source` is named in errors (BadReference)."""
    try:
        config = _hugging_face(source, raw) if "model_type" in raw else _native(source, raw)
    except KeyError as error:
        raise BadReference(f"{source}: config.json lacks {error}") from None
    except (TypeError, ValueError) as error:
        raise BadReference(f"{source}: config.json has a value of the wrong kind ({error})") from None
    sizes = (config.vocab_size, config.hidden, config.layers, config.heads, config.head_dim, config.state)
    if min(*sizes, config.groups, config.conv_kernel) < 1 or config.heads % config.groups:
        raise BadReference(f"{source}: config.json has sizes that make no Mamba-2 model")
    return config


def _hugging_face(source: Path, raw: dict[str, Any]) -> Mamba2Config:
    if raw["model_type"] != "mamba2":
        found = "Mamba-1" if raw["model_type"] == "mamba" else f"of type {raw['model_type']!r}"
        raise BadReference(f"{source}: the model is {found}, not Mamba-2")
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise BadReference(f"{source}: hidden_act {raw['hidden_act']!r} is not supported; Mamba-2 uses silu")
    # A key that is absent has transformers' default, as for any reader of such a folder.
    low, high = raw.get("time_step_limit", (0.0, math.inf))
    config = Mamba2Config(
        vocab_size=int(raw["vocab_size"]),
        hidden=int(raw["hidden_size"]),
        layers=int(raw["num_hidden_layers"]),
        heads=int(raw["num_heads"]),
        head_dim=int(raw.get("head_dim", 64)),
        state=int(raw.get("state_size", 128)),
        groups=int(raw.get("n_groups", 8)),
        conv_kernel=int(raw.get("conv_kernel", 4)),
        eps=float(raw.get("layer_norm_epsilon", 1e-5)),
        dt_limit=(_float(low), _float(high)),
        proj_bias=bool(raw.get("use_bias", False)),
        conv_bias=bool(raw.get("use_conv_bias", True)),
        tied=bool(raw.get("tie_word_embeddings", False)),
    )
    if config.inner != int(raw.get("expand", 2) * config.hidden):
        raise BadReference(f"{source}: config.json: num_heads times head_dim is not expand times hidden_size")
    return config


def _native(source: Path, raw: dict[str, Any]) -> Mamba2Config:
    ssm = dict(raw.get("ssm_cfg") or {})
    if (layer := ssm.get("layer", "Mamba1")) != "Mamba2":
        raise BadReference(f"{source}: the model is {layer.replace('Mamba', 'Mamba-')}, not Mamba-2")
    if raw.get("attn_layer_idx") or raw.get("d_intermediate") or not raw.get("rms_norm", True):
        raise BadReference(f"{source}: attention layers, MLPs and LayerNorm beside Mamba-2 are not supported")
    for key, needed in _NATIVE_FIXED.items():
        if ssm.get(key, needed) != needed:
            raise BadReference(f"{source}: ssm_cfg.{key} = {ssm[key]!r} is not supported")
    known = {"expand", "dt_limit"} | _NATIVE_IGNORED | set(_NATIVE_SHAPE) | set(_NATIVE_FIXED)
    if unknown := sorted(set(ssm) - known):
        raise BadReference(f"{source}: ssm_cfg.{unknown[0]} is not known")
    shape = {field: type(default)(ssm.get(key, default)) for key, (field, default) in _NATIVE_SHAPE.items()}
    hidden, multiple = int(raw["d_model"]), int(raw.get("pad_vocab_size_multiple", 8))
    inner = int(ssm.get("expand", 2)) * hidden
    if inner % shape["head_dim"]:
        raise BadReference(f"{source}: config.json: headdim does not divide expand times d_model")
    low, high = ssm.get("dt_limit", (0.0, math.inf))
    return Mamba2Config(
        # state-spaces pads the vocabulary, and its softmax runs over the padding rows too: so does ours.
        vocab_size=-(-int(raw["vocab_size"]) // multiple) * multiple,
        hidden=hidden,
        layers=int(raw["n_layer"]),
        heads=inner // shape["head_dim"],
        dt_limit=(_float(low), _float(high)),
        tied=bool(raw.get("tie_embeddings", True)),
        **shape,
    )


def _float(value: Any) -> float:
    """A number, or transformers' way to write one that JSON has not: {"__float__": "Infinity"}."""
    return float(value["__float__"] if isinstance(value, dict) else value)
