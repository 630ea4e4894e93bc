"""Mamba-2 and its hybrids as language models: forward pass, loading from safetensors in both published layouts.

Dao and Gu, https://arxiv.org/abs/2405.21060. Parameters bear the names of transformers' `Mamba2ForCausalLM`; a native
state-spaces checkpoint differs in one name only. Knows no tokenizer and no document.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from kernels.conv import causal_conv1d
from kernels.nll import token_nll
from kernels.norm import gated_rms_norm, rms_norm
from kernels.pack import Pack
from kernels.ssd import ssd_chunked
from scorer.causal_lm.checkpoint import fit, read_config, read_weights
from scorer.causal_lm.hybrid import Attention, Mlp
from scorer.causal_lm.mamba2_config import Mamba2Config, parse_config
from scorer.causal_lm.mamba2_packed import fold, packed_hidden, takes_packs
from scorer.causal_lm.recurrent_state import State
from scorer.engine.padding import pad, unpad
from scorer.errors import BadReference

# Positions that a model with attention reads at a time: its published configurations name no limit.
ATTENTION_WINDOW = 8192


class Scale(nn.Module):
    """The weight of an RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Mixer(nn.Module):
    """One layer's mixing over time: project, convolve, SSD, gated norm, project back."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        channels = config.inner + 2 * config.groups * config.state
        self.in_proj = nn.Linear(config.hidden, config.inner + channels + config.heads, bias=config.proj_bias)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_kernel, groups=channels, bias=config.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(config.heads))
        self.A_log = nn.Parameter(torch.empty(config.heads))
        self.D = nn.Parameter(torch.empty(config.heads))
        self.norm = Scale(config.inner)
        self.out_proj = nn.Linear(config.inner, config.hidden, bias=config.proj_bias)

    def forward(self, x: Tensor, conv: Tensor | None, ssd: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, hidden] -> the same shape, and the two states after it."""
        c = self.config
        width = c.groups * c.state
        gate, xbc, dt = self.in_proj(x).split((c.inner, c.inner + 2 * width, c.heads), dim=-1)
        xbc, conv = causal_conv1d(xbc, self.conv1d.weight.squeeze(1), self.conv1d.bias, conv)
        values, b, cc = xbc.split((c.inner, width, width), dim=-1)
        y, ssd = ssd_chunked(
            values.unflatten(-1, (c.heads, c.head_dim)),
            dt,
            -torch.exp(self.A_log.float()),
            b.unflatten(-1, (c.groups, c.state)),
            cc.unflatten(-1, (c.groups, c.state)),
            self.D,
            self.dt_bias,
            c.dt_limit,
            ssd,
        )
        y = gated_rms_norm(y.flatten(2), gate, self.norm.weight, c.eps, c.inner // c.groups)
        return self.out_proj(y), conv, ssd


class Layer(nn.Module):
    """A mixer behind its norm, added to the residual stream, which stays in float32; in a hybrid, more of the kind."""

    def __init__(self, config: Mamba2Config, attention: bool) -> None:
        super().__init__()
        self.eps = config.eps
        self.norm = Scale(config.hidden)
        self.mixer: Mixer | Attention
        if attention and config.attention is not None:
            self.mixer = Attention(config.hidden, config.attention)
        else:
            self.mixer = Mixer(config)
        if config.mlp:
            self.norm2 = Scale(config.hidden)
            self.mlp = Mlp(config.hidden, config.mlp)

    def forward(self, stream: Tensor, conv: Tensor | None, ssd: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """stream [B, T, hidden] float32 -> the same shape, and the two states after it (empty after attention)."""
        dtype = self.mixer.in_proj.weight.dtype
        x = rms_norm(stream, self.norm.weight, self.eps).to(dtype)
        if isinstance(self.mixer, Mixer):
            x, conv, ssd = self.mixer(x, conv, ssd)
        else:
            x, conv, ssd = self.mixer(x), x.new_empty(0), x.new_empty(0)
        stream = stream + x
        if hasattr(self, "mlp"):
            stream = stream + self.mlp(rms_norm(stream, self.norm2.weight, self.eps).to(dtype))
        return stream, conv, ssd


class Backbone(nn.Module):
    """Embedding, layers, last norm."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden)
        self.layers = nn.ModuleList(Layer(config, i in config.attention_layers) for i in range(config.layers))
        self.norm_f = Scale(config.hidden)


class Mamba2(nn.Module):
    """A Mamba-2 language model, or a hybrid. Has torch's default weights until they are loaded.

    It reads a document of any length with its state carried on; one with attention has no such state, and reads windows
    of `context` positions.
    """

    packed = False  # reads the documents of a pack as rows, of like length; a loaded one takes packs on a GPU
    full_packs = False  # takes a pack of any size

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        self.context: int | None = ATTENTION_WINDOW if config.attention_layers else None
        self.vocab_size = config.vocab_size
        self.backbone = Backbone(config)
        self.lm_head = None if config.tied else nn.Linear(config.hidden, config.vocab_size, bias=False)

    @property
    def head(self) -> Tensor:
        """The output matrix [V, hidden]."""
        return self.backbone.embeddings.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, ids: Tensor, state: State | None = None, keep_state: bool = False) -> tuple[Tensor, State | None]:
        """ids [B, T] int64 -> hidden states [B, T, hidden] under the head; with `keep_state` the state after them."""
        stream = self.backbone.embeddings(ids).float()
        if self.context is not None and (state is not None or keep_state):
            raise ValueError("a model with attention has no state to go on from")
        after = State([], [])
        for i, layer in enumerate(self.backbone.layers):
            conv, ssd = (None, None) if state is None else (state.conv[i], state.ssd[i])
            stream, conv, ssd = layer(stream, conv, ssd)
            if keep_state:
                after.conv.append(conv.clone())  # not a view that holds the whole layer's input
                after.ssd.append(ssd)
        hidden = rms_norm(stream, self.backbone.norm_f.weight, self.config.eps).to(self.head.dtype)
        return hidden, after if keep_state else None

    @torch.inference_mode()
    def nll(
        self, ids: Tensor, targets: Tensor, pack: Pack, state: State | None = None, keep_state: bool = False
    ) -> tuple[Tensor, State | None]:
        """NLL in nats, [T] float32, of targets [T] int64, where position t of ids [T] int64 predicts targets[t].

        The documents of `pack` lie one after the other, and none sees another. A target of -100 is not scored and has
        NLL 0. `state` is where its documents go on from, and is used up; with `keep_state` that after them is returned.
        It takes layers x heads x head_dim x state x 4 bytes a document (19 MB for a model of 130M). A model that takes
        no packs has states for packs of one document alone.
        """
        if self.packed:
            hidden, state = packed_hidden(self, ids, pack, state, keep_state)
            return token_nll(hidden, self.head, targets), state
        hidden, state = self(pad(ids, pack), state, keep_state)
        return token_nll(unpad(hidden, pack), self.head, targets), state


def load_mamba2(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Mamba2:
    """Loads a folder of either layout, Hugging Face's or state-spaces' native one, with weights in safetensors.

    `dtype` is that of the matrix products; the small weights (norms, convolution, decays) stay in float32. Every
    tensor is accounted for: one missing, left over or of the wrong shape, and a model that is not Mamba-2, raise
    BadReference.
    """
    config = parse_config(folder, read_config(folder))
    with torch.device("meta"):
        model = Mamba2(config)
    tensors = canonical(folder, read_weights(folder), config)
    packed = torch.device(device).type == "cuda" and takes_packs(config)
    if packed:
        fold(tensors, config.layers)
    for name, tensor in tensors.items():
        product = tensor.dim() == 2 or name.endswith("proj.bias")
        tensors[name] = tensor.to(device=device, dtype=dtype if product else torch.float32)
    model.load_state_dict(tensors, assign=True)
    model.packed = packed
    return model.requires_grad_(False).eval()


def canonical(source: Path, tensors: dict[str, Tensor], config: Mamba2Config) -> dict[str, Tensor]:
    """A checkpoint's tensors under transformers' names, all of them and no other, or BadReference naming `source`.

    state-spaces calls the embedding `backbone.embedding`, and may store the tied output matrix a second time.
    """
    renamed = {name.replace("backbone.embedding.", "backbone.embeddings."): t for name, t in tensors.items()}
    if config.tied and (head := renamed.pop("lm_head.weight", None)) is not None:
        embedding = renamed.get("backbone.embeddings.weight")
        if embedding is not None and not torch.equal(head, embedding):
            raise BadReference(f"{source}: lm_head.weight differs from the embedding that config.json ties it to")
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in Mamba2(config).state_dict().items()}
    fit(source, renamed, expected)
    return renamed
