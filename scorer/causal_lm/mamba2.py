"""Mamba-2 and its hybrids as language models: forward pass, and loading from safetensors in both published layouts.

Dao and Gu, https://arxiv.org/abs/2405.21060. Parameters have the names of transformers' `Mamba2ForCausalLM`; a native
state-spaces checkpoint differs in one name only. Knows no tokenizer.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kernels.e4m3 import Fp8Head
from kernels.nll import token_nll
from kernels.nll_fp8 import quantize_head, token_nll8
from kernels.norm import rms_norm
from kernels.pack import Pack
from scorer.causal_lm.checkpoint import check_tensors, read_config, read_weights
from scorer.causal_lm.fp8 import replace_projection
from scorer.causal_lm.mamba2_config import Mamba2Config, parse_config
from scorer.causal_lm.mamba2_layers import Backbone
from scorer.causal_lm.mamba2_packed import fold, packed_hidden, takes_packs
from scorer.causal_lm.mamba2_training import training_hidden, trains_packs
from scorer.causal_lm.mamba2_trial import packs_as_alone
from scorer.causal_lm.padding import pad, unpad
from scorer.causal_lm.recurrent_state import State
from scorer.errors import BadReference

log = logging.getLogger("winnow.reference")


class Mamba2(nn.Module):
    """A Mamba-2 language model, or a hybrid. Has torch's default weights until `load_mamba2` or a training sets them.

    It reads a document of any length, in parts, with a recurrent state from part to part; to this attention adds the
    keys and values of the last positions.
    """

    context: int | None = None  # documents of any length
    packed = False  # whether it reads packs as they are; a model loaded on a GPU does if its shape fits the kernels
    full_packs = False  # packs need not be filled up

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = config.vocab_size
        self._head8: Fp8Head | None = None  # of a model that was quantized
        self._packs: dict[tuple[int, int, torch.device], Pack] = {}  # of batches, as CUDA graphs need them in place
        self.backbone = Backbone(config)
        self.lm_head = None if config.tied else nn.Linear(config.hidden, config.vocab_size, bias=False)

    @property
    def head(self) -> Tensor:
        """The output matrix [V, hidden]."""
        return self.backbone.embeddings.weight if self.lm_head is None else self.lm_head.weight

    def forward(
        self, ids: Tensor, state: State | None = None, keep_state: bool = False, positions: Tensor | None = None
    ) -> tuple[Tensor, State | None]:
        """ids [B, T] int64 -> hidden states [B, T, hidden] before the head, and with `keep_state` the state after them.

        positions [B, T]: of each token in its document, where a row has several; None if a row is one document. On a
        GPU without states these are the kernels for a training, and the dtype is that of the products. A model with
        attention has no gradients, and raises ValueError for positions.
        """
        if state is None and not keep_state and ids.is_cuda and trains_packs(self.config):
            within = None if positions is None else positions.flatten()
            hidden = training_hidden(self.backbone, ids.flatten(), self._rows(ids), within)
            return hidden.unflatten(0, ids.shape), None
        stream = self.backbone.embeddings(ids).float()
        if self.config.attention is not None and positions is not None:
            raise ValueError("a row of a model with attention is one document")
        lengths = [ids.shape[1]] * len(ids)
        span = self.backbone.span(Pack.of(lengths, ids.device), state, keep_state)
        after = State.after(state, lengths)
        for i, layer in enumerate(self.backbone.layers):
            conv, mixer = (None, None) if state is None else (state.conv[i], state.mixer[i])
            stream, conv, mixer = layer(stream, conv, mixer, positions, span)
            if keep_state:
                after.conv.append(conv.clone())  # a view would keep the whole layer's input in memory
                after.mixer.append(mixer)
        hidden = rms_norm(stream, self.backbone.norm_f.weight, self.config.eps).to(self.head.dtype)
        return hidden, after if keep_state else None

    def _rows(self, ids: Tensor) -> Pack:
        """The pack of the rows of ids [B, T]; kept, with the tables that the kernels make of it."""
        shape = (len(ids), ids.shape[1], ids.device)
        if shape not in self._packs:
            self._packs[shape] = Pack.of([ids.shape[1]] * len(ids), ids.device)
        return self._packs[shape]

    @torch.inference_mode()
    def nll(
        self, ids: Tensor, targets: Tensor, pack: Pack, state: State | None = None, keep_state: bool = False
    ) -> tuple[Tensor, State | None]:
        """NLL in nats, [T] float32, of targets [T] int64; ids [T] int64 up to position t predict targets[t].

        The documents of `pack` are independent. A target of -100 is not scored and has NLL 0. `state` is the state
        before the documents, and is emptied; with `keep_state` the state after them is returned. A state takes layers x
        heads x head_dim x state x 4 bytes a document (19 MB for a model of 130M), and of an attention layer the keys
        and values of the context. A model that is not `packed` has states only for packs of one document.
        """
        if self.packed:
            hidden, state = packed_hidden(self.backbone, ids, pack, state, keep_state)
            hidden = hidden.to(self.head.dtype)
            if self._head8 is not None:
                return token_nll8(hidden, self._head8, targets), state
            return token_nll(hidden, self.head, targets), state
        hidden, state = self(pad(ids, pack), state, keep_state)
        return token_nll(unpad(hidden, pack), self.head, targets), state

    @torch.no_grad()
    def quantize(self) -> None:
        """Makes the products of a bfloat16 model those of 8-bit factors. Raises BadReference if it reads no packs."""
        if not self.packed:
            raise BadReference(
                "dtype fp8 needs a Mamba-2 model that the GPU kernels support: heads of 64 or 128 and states of 16 to"
                " 256; choose auto"
            )
        layers: Any = self.backbone.layers
        for layer in layers:
            replace_projection(layer.mixer, "in_proj")
            replace_projection(layer.mixer, "out_proj")
            if self.config.mlp:
                replace_projection(layer.mlp, "fc1")
                replace_projection(layer.mlp, "fc2")
        self._head8 = quantize_head(self.head.detach())


def load_mamba2(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Mamba2:
    """Loads a folder in Hugging Face's layout or state-spaces' native one, with weights in safetensors.

    `dtype` is that of the matrix products; the small weights (norms, convolution, decays) stay in float32. Raises
    BadReference for a tensor that is missing, left over or misshapen, and for a model that is not Mamba-2.
    """
    config = parse_config(folder, read_config(folder))
    with torch.device("meta"):
        model = Mamba2(config)
    tensors = rename_tensors(folder, read_weights(folder), config)
    packed = torch.device(device).type == "cuda" and takes_packs(config)
    if packed:
        fold(tensors, config.layers)
    for name, tensor in tensors.items():
        product = tensor.dim() == 2 or name.endswith("proj.bias")
        tensors[name] = tensor.to(device=device, dtype=dtype if product else torch.float32)
    model.load_state_dict(tensors, assign=True)
    model.requires_grad_(False).eval()
    if packed and config.hybrid and not packs_as_alone(model.backbone, lambda ids: model(ids)[0]):
        log.warning("%s: the model scores otherwise in packs than alone; it reads rows, which is slower", folder)
        packed = False
    model.packed = packed
    return model


def rename_tensors(source: Path, tensors: dict[str, Tensor], config: Mamba2Config) -> dict[str, Tensor]:
    """A checkpoint's tensors under transformers' names, checked. Raises BadReference, which names `source`.

    state-spaces names the embedding `backbone.embedding`, and may store the tied output matrix a second time.
    """
    renamed = {name.replace("backbone.embedding.", "backbone.embeddings."): t for name, t in tensors.items()}
    if config.tied and (head := renamed.pop("lm_head.weight", None)) is not None:
        embedding = renamed.get("backbone.embeddings.weight")
        if embedding is not None and not torch.equal(head, embedding):
            raise BadReference(f"{source}: lm_head.weight differs from the embedding that config.json ties it to")
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in Mamba2(config).state_dict().items()}
    check_tensors(source, renamed, expected)
    return renamed
