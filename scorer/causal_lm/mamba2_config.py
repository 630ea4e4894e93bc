"""The sizes of a Mamba-2 model, read from a config.json of Hugging Face or of state-spaces (native)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scorer.errors import BadReference

# Keys of a native `ssm_cfg` about initialization or kernels: they do not change what the model computes.
_NATIVE_IGNORED = {"layer", "chunk_size", "use_mem_eff_path", "conv_init", "A_init_range", "dt_min", "dt_max"} | {
    "dt_init_floor"
}
# Keys of a native `ssm_cfg` that are read: (our field, state-spaces' default).
_NATIVE_SHAPE: dict[str, tuple[str, Any]] = {
    "d_state": ("state", 128),
    "d_conv": ("conv_kernel", 4),
    "headdim": ("head_dim", 64),
    "ngroups": ("groups", 1),
    "bias": ("proj_bias", False),
    "conv_bias": ("conv_bias", True),
}
# Keys of variants that are not supported, and that no published Mamba-2 language model uses: the value required.
_NATIVE_FIXED: dict[str, Any] = {"d_ssm": None, "D_has_hdim": False, "rmsnorm": True, "norm_before_gate": False}
# Keys of a native `attn_cfg` that are read, besides the number of heads: state-spaces' default.
_ATTENTION: dict[str, Any] = {"num_heads_kv": None, "head_dim": None, "qkv_proj_bias": True, "out_proj_bias": True} | {
    "softmax_scale": None,
    "d_conv": 0,
    "rotary_emb_dim": 0,
    "rotary_emb_base": 10_000.0,
    "rotary_emb_interleaved": False,
}
_ATTENTION_FIXED: dict[str, tuple[Any, Any]] = {"causal": (True, False), "mlp_dim": (0, 0)}  # required, default
ATTENTION_CONTEXT = 8192  # positions that attention sees where config.json names no limit; published ones do not
_LARGEST_CONTEXT = 1 << 20  # a larger limit counts as none
# Sizes that the kernels of attention take: a head's width, taps of its convolution (0 for none).
WIDEST_HEAD, TAPS = 256, (0, 2, 3, 4, 5, 6, 7, 8)
_MLP_MULTIPLE = 128  # state-spaces rounds the hidden features of an MLP up to a multiple of this


@dataclass(frozen=True)
class AttentionConfig:
    """Sizes of the attention that replaces the mixer in some layers of a hybrid.

    `rotary` is the number of channels of a head that are rotated. It and `conv_kernel` are 0 if there is none.
    """

    heads: int
    kv_heads: int
    head_dim: int
    conv_kernel: int = 0
    rotary: int = 0
    rotary_base: float = 10_000.0
    interleaved: bool = False  # rotated pairs are neighbouring channels, not channels rotary / 2 apart
    scale: float | None = None
    qkv_bias: bool = True
    out_bias: bool = True


@dataclass(frozen=True)
class Mamba2Config:
    """Sizes of a model. `vocab_size` counts the rows of the embedding, padding included.

    A hybrid has attention in `attention_layers`, or an MLP of `mlp` hidden features in each layer, or both. A token's
    attention sees the last `attention_context` positions of its document, itself included.
    """

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
    mlp: int = 0
    attention: AttentionConfig | None = None
    attention_layers: tuple[int, ...] = ()
    attention_context: int = ATTENTION_CONTEXT

    @property
    def hybrid(self) -> bool:
        """Whether there are layers that transformers' Mamba-2 does not have."""
        return bool(self.mlp or self.attention_layers)

    @property
    def inner(self) -> int:
        """Channels inside a mixer."""
        return self.heads * self.head_dim

    def to_json(self) -> dict[str, Any]:
        """The Hugging Face config.json of this model, with every field whose default could differ.

        Raises ValueError for a hybrid: transformers has no such model.
        """
        if self.hybrid:
            raise ValueError("transformers has no such hybrid")
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
    beyond = any(not 0 <= layer < config.layers for layer in config.attention_layers)
    if min(*sizes, config.groups, config.conv_kernel) < 1 or config.heads % config.groups or config.mlp < 0 or beyond:
        raise BadReference(f"{source}: config.json has sizes that are not possible for Mamba-2")
    return config


def _hugging_face(source: Path, raw: dict[str, Any]) -> Mamba2Config:
    if raw["model_type"] != "mamba2":
        found = "Mamba-1" if raw["model_type"] == "mamba" else f"of type {raw['model_type']!r}"
        raise BadReference(f"{source}: the model is {found}, not Mamba-2")
    if raw.get("hidden_act", "silu") not in ("silu", "swish"):
        raise BadReference(f"{source}: hidden_act {raw['hidden_act']!r} is not supported; Mamba-2 uses silu")
    # A missing key has transformers' default.
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
    if not raw.get("rms_norm", True):
        raise BadReference(f"{source}: LayerNorm beside Mamba-2 is not supported")
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
        # state-spaces pads the vocabulary, and its softmax includes the padding rows: so does ours.
        vocab_size=-(-int(raw["vocab_size"]) // multiple) * multiple,
        hidden=hidden,
        layers=int(raw["n_layer"]),
        heads=inner // shape["head_dim"],
        dt_limit=(_float(low), _float(high)),
        tied=bool(raw.get("tie_embeddings", True)),
        mlp=-(-int(raw.get("d_intermediate") or 0) // _MLP_MULTIPLE) * _MLP_MULTIPLE,
        attention=_attention(source, hidden, raw.get("attn_cfg") or {}) if raw.get("attn_layer_idx") else None,
        attention_layers=tuple(sorted({int(layer) for layer in raw.get("attn_layer_idx") or ()})),
        attention_context=_attention_context(source, raw.get("max_position_embeddings")),
        **shape,
    )


def _attention(source: Path, hidden: int, raw: dict[str, Any]) -> AttentionConfig:
    for key, (needed, default) in _ATTENTION_FIXED.items():
        if (value := raw.get(key, default)) != needed:
            raise BadReference(f"{source}: attn_cfg.{key} = {value!r} is not supported; {needed!r} is")
    if unknown := sorted(set(raw) - set(_ATTENTION) - set(_ATTENTION_FIXED) - {"num_heads"}):
        raise BadReference(f"{source}: attn_cfg.{unknown[0]} is not known")
    given = _ATTENTION | {key: value for key, value in raw.items() if value is not None}
    heads = int(raw["num_heads"])
    config = AttentionConfig(
        heads=heads,
        kv_heads=int(given["num_heads_kv"] or heads),
        head_dim=int(given["head_dim"] or hidden // max(1, heads)),
        conv_kernel=int(given["d_conv"]),
        rotary=int(given["rotary_emb_dim"]),
        rotary_base=float(given["rotary_emb_base"]),
        interleaved=bool(given["rotary_emb_interleaved"]),
        scale=None if given["softmax_scale"] is None else float(given["softmax_scale"]),
        qkv_bias=bool(given["qkv_proj_bias"]),
        out_bias=bool(given["out_proj_bias"]),
    )
    wrong = min(config.heads, config.kv_heads, config.head_dim) < 1 or config.heads % max(1, config.kv_heads)
    if wrong or config.rotary % 2 or not 0 <= config.rotary <= config.head_dim:
        raise BadReference(f"{source}: attn_cfg has sizes that are not possible for attention")
    if config.head_dim > WIDEST_HEAD:
        raise BadReference(
            f"{source}: attn_cfg: heads of {config.head_dim} are not supported; {WIDEST_HEAD} at most are"
        )
    if config.conv_kernel not in TAPS:
        raise BadReference(
            f"{source}: attn_cfg.d_conv = {config.conv_kernel} is not supported; 0 and 2 to {TAPS[-1]} are"
        )
    if config.scale is not None and not config.scale > 0:
        raise BadReference(f"{source}: attn_cfg.softmax_scale = {config.scale} is not supported; positive ones are")
    return config


def _attention_context(source: Path, limit: Any) -> int:
    """The positions that a token's attention sees; a limit may be named as in models of transformers."""
    if limit is None or int(limit) > _LARGEST_CONTEXT:
        return ATTENTION_CONTEXT
    if int(limit) < 2:
        raise BadReference(
            f"{source}: max_position_embeddings = {limit!r} leaves attention no position to look back at"
        )
    return int(limit)


def _float(value: Any) -> float:
    """A number, or {"__float__": "Infinity"}, as transformers writes one that JSON lacks."""
    return float(value["__float__"] if isinstance(value, dict) else value)
