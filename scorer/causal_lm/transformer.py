"""A causal language model of transformers with the interface of the scoring loop: a pack of token ids in, NLL out."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.pack import Pack
from scorer.causal_lm.capabilities import (
    NO_LIMIT,
    PROBE,
    TRIAL_ERRORS,
    find_capabilities,
    random_ids,
    replace_absurd_limits,
    try_compiled,
)
from scorer.causal_lm.forward import Body, documents_hidden, pack_hidden, whole_logits
from scorer.causal_lm.fp8 import quantized_head, replace_linear
from scorer.causal_lm.head import cross_entropy
from scorer.causal_lm.recurrent_state import State
from scorer.errors import BadReference, one_line

log = logging.getLogger("winnow.reference")

# How a model is run, whatever its config.json says: none of it is part of what the model computes.
_RUN: dict[str, Any] = {
    "_attn_implementation": None,  # transformers' choice for this model
    "_experts_implementation": None,
    "chunk_size_feed_forward": 0,
    "fusion_config": None,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_router_logits": False,
    "return_dict": True,
    "transformers_weights": None,  # the files that checkpoint.py finds
    "use_cache": False,
}
# Between logits of 8-bit products that differ by rounding only: a number near the middle of two may go to either.
_TOLERANCE8 = 0.25
# Buffers that old checkpoints hold, and that are not part of the model.
_STALE = re.compile(r"(\.(attn|attention|self_attn)\.(bias|masked_bias)|inv_freq|position_ids)$")


class Transformer:
    """Runs a model in the fastest way that its capabilities allow."""

    def __init__(self, model: Any, packs: bool = False) -> None:
        """`model` is a causal LM of transformers, on its device, in its dtype. Raises BadReference.

        With `packs` it reads packs as they are, if it can.
        """
        self.model = model
        self.capabilities = find_capabilities(model, packs)

    @property
    def context(self) -> int:
        """Positions that the model reads, at most."""
        return self.capabilities.context

    @property
    def vocab_size(self) -> int:
        """The number of ids that the model can read and predict."""
        return self.capabilities.vocab_size

    @property
    def packed(self) -> bool:
        """Whether it reads packs as they are. If not, documents become rows, and those of a pack should be alike."""
        return self.capabilities.packed

    @property
    def full_packs(self) -> bool:
        """Whether packs should be filled to the size that `compile` was given: only those run compiled."""
        return self.capabilities.compiled is not None

    def compile(self, tokens: int) -> None:
        """Compiles the body for packs of exactly `tokens` tokens, if that works. Raises torch.OutOfMemoryError."""
        self.capabilities = replace(self.capabilities, compiled=None)
        self.capabilities = replace(self.capabilities, compiled=try_compiled(self.model, self.capabilities, tokens))

    @torch.no_grad()
    def quantize(self) -> None:
        """Makes the products of a bfloat16 model's linear layers those of 8-bit factors.

        Raises BadReference for a model whose layers cannot be replaced, and torch.OutOfMemoryError.
        """
        body, head = self.capabilities.body, self.capabilities.head
        if body is None or head is None:
            raise BadReference("dtype fp8 needs a model whose body and head can be run apart; choose auto")
        layers = replace_linear(body.module)
        if layers == 0:
            raise BadReference(
                "dtype fp8 needs linear layers whose inputs and outputs are multiples of 16, and this model has none"
                " that can be replaced; choose auto"
            )
        log.info("%d linear layers with 8-bit products", layers)
        length = min(PROBE, self.context)
        try:
            self._hidden(body, random_ids(self.model, length, self.vocab_size), Pack.of([length], self.model.device))
        except torch.OutOfMemoryError:
            raise
        except TRIAL_ERRORS as error:
            raise BadReference(f"the model does not run with 8-bit linear layers ({one_line(error)})") from None
        self.capabilities = replace(self.capabilities, head=quantized_head(head), compiled=None, tolerance=_TOLERANCE8)

    @torch.inference_mode()
    def nll(
        self, ids: Tensor, targets: Tensor, pack: Pack, state: State | None = None, keep_state: bool = False
    ) -> tuple[Tensor, None]:
        """NLL in nats, [T] float32, of targets [T] int64; ids [T] int64 up to position t predict targets[t].

        The documents of `pack` are independent, and none is longer than the context. A target of -100 is not scored and
        has NLL 0. There is no recurrent state: `state` and `keep_state` are there for the interface of `Mamba2.nll`.
        """
        body, head = self.capabilities.body, self.capabilities.head
        if body is not None and head is not None:
            return head(self._hidden(body, ids, pack), targets), None
        documents = zip(ids.split(pack.lengths.tolist()), targets.split(pack.lengths.tolist()), strict=True)
        return torch.cat([cross_entropy(whole_logits(self.model, i[None])[0], t) for i, t in documents]), None

    def _hidden(self, body: Body, ids: Tensor, pack: Pack) -> Tensor:
        """ids [T] -> hidden states [T, D]."""
        if not self.capabilities.packed:
            return documents_hidden(body, ids, pack, self.capabilities.one_by_one)
        compiled = self.capabilities.compiled
        run = body.run if compiled is None or compiled.tokens != pack.tokens else compiled.run
        return pack_hidden(run, ids, pack)


def load_transformer(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Transformer:
    """Loads a Hugging Face folder with weights in safetensors; runs no code from the folder.

    Raises BadReference for a tensor that is missing, of another shape or left over, and for a model that transformers
    does not know or that cannot score.
    """
    from transformers import AutoModelForCausalLM

    from scorer.hf_logging import silent

    with silent():
        model = load_pretrained(AutoModelForCausalLM, folder, dtype, device, "a causal language model")
        try:
            return Transformer(model, packs=model.device.type == "cuda")
        except BadReference as error:
            raise BadReference(f"{folder}: {error}") from None
        except torch.OutOfMemoryError:
            raise
        except TRIAL_ERRORS as error:
            raise BadReference(f"{folder}: the model does not read plain text ({one_line(error)})") from None


def load_pretrained(auto: Any, folder: Path, dtype: torch.dtype, device: torch.device | str, kind: str) -> Any:
    """A model of the class `auto` of transformers, without gradients; `kind` names it in errors.

    Reads safetensors alone and runs no code from the folder. Raises BadReference.
    """
    try:
        model, found = auto.from_pretrained(
            str(folder),
            config=run_config(folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # check_loaded refuses them, by name
            output_loading_info=True,
        )
    except Exception as error:  # the folder's files decide what is raised
        raise BadReference(f"{folder}: cannot be loaded as {kind} ({one_line(error)})") from None
    check_loaded(folder, found)
    return model.requires_grad_(False).eval().to(device)


def run_config(folder: Path) -> Any:
    """The folder's configuration of transformers, with the run settings and limits that we can use."""
    from transformers import AutoConfig

    # These two exclude each other in part, so they are not even read.
    ours = {"attn_implementation": None, "output_attentions": False}
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **ours)
    for part in (config, config.get_text_config()):
        for name, value in _RUN.items():
            if hasattr(part, name):
                setattr(part, name, value)
    if (limit := replace_absurd_limits(config)) is not None:
        said = "%s: config.json names a limit of %d tokens, which counts as none: the model reads %d at a time"
        log.warning(said, folder, limit, NO_LIMIT)
    return config


def check_loaded(folder: Path, found: dict[str, Any]) -> None:
    """Raises BadReference if tensors are missing, misshapen or left over by the report `found` of a loading."""
    if missing := sorted(found["missing_keys"]):
        raise BadReference(
            f"{folder}: tensor {missing[0]} is missing ({len(missing)} in all); fetch the whole checkpoint"
        )
    if wrong := sorted(str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]):
        raise BadReference(f"{folder}: tensor {wrong[0]} has a different shape from that in config.json")
    if extra := sorted(key for key in found["unexpected_keys"] if not _STALE.search(key)):
        raise BadReference(
            f"{folder}: tensor {extra[0]} is not part of the model that config.json describes ({len(extra)} in all)"
        )
