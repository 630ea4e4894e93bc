"""Any causal language model that transformers can load, behind the interface of the scoring loop.

The body gives hidden states; their way to logits is checked once, when the model is loaded, against the model's own
forward pass, so that biases, scalings and soft caps are never lost.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.nll import IGNORED, token_nll
from scorer.errors import BadReference, one_line

# Windows of a model whose config names no limit (ALiBi, for one): its memory may grow with the square of them.
NO_LIMIT = 8192
_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "context_length", "n_ctx")
# Buffers that old checkpoints hold, and that say nothing of the model.
_STALE = re.compile(r"(\.(attn|attention|self_attn)\.(bias|masked_bias)|inv_freq|position_ids)$")
_LOGITS = 1 << 24  # logits held at a time where the head is the model's own: 64 MiB in float32
_PROBE = 24  # tokens read, at loading, by the model's own forward pass and by ours
_LOUD = 1024.0  # hidden states are multiplied by this, to make a cap on logits show


class Transformer:
    """`context` is the model's limit in positions, `vocab_size` the number of ids it can read and predict."""

    def __init__(self, model: Any) -> None:
        """`model` is a causal LM of transformers, on its device, in its dtype. Raises BadReference."""
        self.model = model
        self.context: int = _context(model.config)
        if self.context < 2:
            raise BadReference(f"the model reads {self.context} token at a time, too few to predict one")
        self._body: Any = None
        self._head: Any = model.get_output_embeddings()
        embedding = model.get_input_embeddings()
        draw = torch.Generator().manual_seed(0)
        length = min(_PROBE, self.context)
        ids = torch.randint(embedding.num_embeddings, (1, length), generator=draw).to(model.device)
        whole = self._whole(ids)
        self.vocab_size = min(int(embedding.num_embeddings), whole.shape[-1])
        self._close = 1e-4 if whole.dtype == torch.float32 and model.dtype == torch.float32 else 5e-2
        if not self._same(self._whole(ids[:, : length // 2]), whole[:, : length // 2]):
            raise BadReference("the model is not causal: its predictions change with the text that follows")
        self._nll = self._choose(ids, whole)

    @torch.inference_mode()
    def nll(self, ids: Tensor, targets: Tensor, state: None = None, keep_state: bool = False) -> tuple[Tensor, None]:
        """NLL in nats, [B, T] float32, of targets [B, T] int64, where position t of ids [B, T] predicts targets[:, t].

        A target of -100 is not scored and has NLL 0. Padding on the right changes no scored token. There is no state to
        go on from: the two last arguments are those of `Mamba2.nll`.
        """
        return self._nll(ids, targets), None

    def _choose(self, ids: Tensor, whole: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The quickest way from ids to NLL that says what the model itself says."""
        for body in (self.model.base_model, self.model.get_decoder()):
            if body is self.model or body is None:
                continue
            self._body = body
            try:
                hidden = self._hidden(ids)
                if self._same(self._own_head(hidden), whole):
                    loud = hidden * _LOUD
                    linear = isinstance(self._head, nn.Linear) and self._same(self._head(loud), self._own_head(loud))
                    return self._by_linear_head if linear else self._by_own_head
            except (RuntimeError, TypeError, AttributeError, ValueError, IndexError):
                continue  # the model is built in another way
        return self._by_whole_rows

    def _by_linear_head(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The head is a matrix (and bias) and nothing else."""
        scored = targets != IGNORED
        out = torch.zeros(targets.shape, dtype=torch.float32, device=ids.device)
        out[scored] = token_nll(self._hidden(ids)[scored], self._head.weight, targets[scored], self._head.bias)
        return out

    def _by_own_head(self, ids: Tensor, targets: Tensor) -> Tensor:
        """The head does more: it runs as it is, on some positions at a time."""
        scored = targets != IGNORED
        hidden, wanted = self._hidden(ids)[scored], targets[scored]
        nll = torch.empty(len(hidden), dtype=torch.float32, device=ids.device)  # a small array for each piece would
        step = max(1, _LOGITS // self.vocab_size)  # lie between the large ones, and no room could be used again
        for rows in (slice(i, i + step) for i in range(0, len(hidden), step)):
            nll[rows] = _cross_entropy(self._own_head(hidden[None, rows])[0], wanted[rows])
        out = torch.zeros(targets.shape, dtype=torch.float32, device=ids.device)
        out[scored] = nll
        return out

    def _by_whole_rows(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Body and head cannot be told apart: the logits of one row at a time."""
        return torch.stack([_cross_entropy(self._whole(i[None])[0], t) for i, t in zip(ids, targets, strict=True)])

    @torch.inference_mode()
    def _whole(self, ids: Tensor) -> Tensor:
        """The model's own logits: ids [B, T] -> [B, T, V]."""
        logits: Tensor = self.model(input_ids=ids).logits
        return logits

    @torch.inference_mode()
    def _hidden(self, ids: Tensor) -> Tensor:
        """What the body hands to the head: ids [B, T] -> [B, T, D]."""
        output = self._body(input_ids=ids)
        self._output = type(output)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.inference_mode()
    def _own_head(self, hidden: Tensor) -> Tensor:
        """Logits [B, T, V] that the model's own forward pass makes of the body's hidden [B, T, D]."""
        self._body.forward = lambda *_args, **_kwargs: self._output(last_hidden_state=hidden)
        try:
            return self._whole(torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device))
        finally:
            del self._body.forward

    def _same(self, a: Tensor, b: Tensor) -> bool:
        """Whether two logits are equal but for rounding; what is no number in one must be none in the other."""
        if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
            return False
        a, b = a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)
        return bool((a - b).abs().max() <= self._close * b.abs().max())


def load_transformer(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Transformer:
    """Loads a Hugging Face folder with weights in safetensors; runs no code of the folder's.

    A tensor that is missing, of another shape or left over, and a model that transformers does not know, raise
    BadReference.
    """
    from transformers import AutoModelForCausalLM

    from scorer.quiet import quiet

    with quiet():
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are refused here, by name
                output_loading_info=True,
            )
        except Exception as error:  # whatever a foreign folder makes it stumble over
            raise BadReference(f"{folder}: cannot be loaded as a causal language model ({one_line(error)})") from None
        _check(folder, found)
        model.config.use_cache = False
        model.requires_grad_(False).eval().to(device)
        try:
            return Transformer(model)
        except BadReference as error:
            raise BadReference(f"{folder}: {error}") from None


def _check(folder: Path, found: dict[str, Any]) -> None:
    """Refuses a checkpoint that is not all of the model and nothing else."""
    if missing := sorted(found["missing_keys"]):
        raise BadReference(
            f"{folder}: tensor {missing[0]} is missing ({len(missing)} in all); fetch the whole checkpoint"
        )
    if wrong := sorted(str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]):
        raise BadReference(f"{folder}: tensor {wrong[0]} has another shape than config.json asks for")
    if extra := sorted(key for key in found["unexpected_keys"] if not _STALE.search(key)):
        raise BadReference(
            f"{folder}: tensor {extra[0]} is not part of the model that config.json describes ({len(extra)} in all)"
        )


def _context(config: Any) -> int:
    """The most positions the model reads, by whichever name its config says it."""
    text = config.get_text_config()
    for name in _LIMITS:
        limit = getattr(text, name, None)
        if isinstance(limit, int) and limit > 0:
            return limit
    return NO_LIMIT


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="none")
