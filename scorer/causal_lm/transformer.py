"""Any causal language model that transformers can load, behind the interface of the scoring loop.

What is quick is never believed but tried, once, when a model is loaded, against the model's own forward pass: hidden
states and their way to logits, so that biases, scalings and soft caps are never lost, and attention over packs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kernels.pack import Pack
from scorer.causal_lm import packed_attention as packed_body
from scorer.causal_lm.head import Head, choose_head, cross_entropy
from scorer.causal_lm.padding import pad, unpad
from scorer.causal_lm.recurrent_state import State
from scorer.errors import BadReference, one_line

# Windows of a model whose config names no limit (ALiBi, for one): its memory may grow with the square of them.
NO_LIMIT = 8192
_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "context_length",
    "n_ctx",
    "max_target_positions",
)
# Buffers that old checkpoints hold, and that say nothing of the model.
_STALE = re.compile(r"(\.(attn|attention|self_attn)\.(bias|masked_bias)|inv_freq|position_ids)$")
_PROBE = 24  # tokens read, at loading, by the model's own forward pass and by ours
_SPANS = ("sliding_window", "attention_chunk_size", "attention_window_size")  # beyond which some attention ends
_FAILS = (RuntimeError, TypeError, AttributeError, ValueError, IndexError, KeyError)  # of a model built in another way


class Transformer:
    """`context` is the model's limit in positions, `vocab_size` the number of ids it can read and predict.

    `packed` says that it reads packs as they are; else their documents become rows, and are to be of like length.
    `full_packs` says that a pack is to hold as many tokens as `compile` was told, for the same work every time.
    """

    def __init__(self, model: Any, packs: bool = False) -> None:
        """`model` is a causal LM of transformers, on its device, in its dtype. Raises BadReference.

        With `packs` it reads packs as they are, if it can.
        """
        self.model = model
        self.context: int = _context(model)
        self._one_by_one = _changes_with_length(model.config.get_text_config())
        if self.context < 2:
            raise BadReference(f"the model reads {self.context} token at a time, too few to predict one")
        self.full_packs = False
        self._body: Any = None
        self._compiled: dict[int, Any] = {}  # the body for packs of so many tokens
        self._head: Head | None = None
        embedding = model.get_input_embeddings()
        ids = self._draw(min(_PROBE, self.context), embedding.num_embeddings)[None]
        whole = self._whole(ids)
        self.vocab_size = min(int(embedding.num_embeddings), whole.shape[-1])
        self._close = 1e-4 if whole.dtype == torch.float32 and model.dtype == torch.float32 else 5e-2
        half = ids.shape[1] // 2
        if not self._same(self._whole(ids[:, :half]), whole[:, :half]):
            raise BadReference("the model is not causal: its predictions change with the text that follows")
        self._choose(ids, whole)
        self.packed = packs and self._switch()

    @torch.inference_mode()
    def nll(
        self, ids: Tensor, targets: Tensor, pack: Pack, state: State | None = None, keep_state: bool = False
    ) -> tuple[Tensor, None]:
        """NLL in nats, [T] float32, of targets [T] int64, where position t of ids [T] int64 predicts targets[t].

        The documents of `pack` lie one after the other, and none sees another; none is longer than the context. A
        target of -100 is not scored and has NLL 0. There is no state to go on from: the two last arguments are those of
        `Mamba2.nll`.
        """
        if self._head is not None:
            return self._head(self._hidden(ids, pack), targets), None
        # Body and head cannot be told apart: the logits of one document at a time.
        documents = zip(ids.split(pack.lengths.tolist()), targets.split(pack.lengths.tolist()), strict=True)
        return torch.cat([cross_entropy(self._whole(i[None])[0], t) for i, t in documents]), None

    def compile(self, tokens: int) -> None:
        """Compiles the body for packs of so many tokens, which are then always to be full; if it can and is right."""
        if not self.packed:
            return
        self.full_packs, self._compiled = False, {}
        lengths = [min(self.context, tokens - start) for start in range(0, tokens, self.context)]
        ids, pack = self._draw(tokens), Pack.of(lengths, self.model.device)
        few = torch.arange(0, tokens, max(1, tokens // (8 * _PROBE)), device=self.model.device)
        eager = self._logits(self._hidden(ids, pack)[few])
        try:
            self._compiled[tokens] = torch.compile(self._body, dynamic=False)
            self.full_packs = self._same(self._logits(self._hidden(ids, pack)[few]), eager)
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever its compiler stumbles over
            self.full_packs = False
        if not self.full_packs:
            self._compiled = {}

    def _draw(self, length: int, below: int | None = None, seed: int = 0) -> Tensor:
        """Random ids [length]."""
        draw = torch.Generator().manual_seed(seed)
        return torch.randint(below or self.vocab_size, (length,), generator=draw).to(self.model.device)

    def _choose(self, ids: Tensor, whole: Tensor) -> None:
        """Finds the body and the head that say what the model itself says."""
        for body in (self.model.base_model, self.model.get_decoder()):
            if body is self.model or body is None:
                continue
            self._body = body
            try:
                hidden = self._rows(ids)
                if self._same(self._logits(hidden[0])[None], whole):
                    self._head = choose_head(self.model, hidden, self._own_head, self.vocab_size, self._same)
                    return
            except _FAILS:
                continue

    def _switch(self) -> bool:
        """Goes over to attention by packs, if the model's documents then score as alone, and see nothing of others."""
        config = self.model.config.get_text_config()
        spans = [span for name in _SPANS if isinstance(span := getattr(config, name, None), int)]
        if self._head is None or self._one_by_one:
            return False
        longest = min(self.context, NO_LIMIT, max([*spans, 0]) + _PROBE)
        lengths = [min(self.context, 2), 1, longest, min(self.context, 7)]
        pack = Pack.of(lengths, self.model.device)
        ids, others = self._draw(pack.tokens), self._draw(pack.tokens, seed=1)
        first = lengths[0]
        others[first:] = ids[first:]
        alone = torch.cat([self._whole(part[None])[0] for part in ids.split(lengths)])
        before = self.model.config._attn_implementation
        self.packed = True
        try:
            if packed_body.switch(self.model):
                hidden = self._hidden(ids, pack)
                same = self._same(self._logits(hidden), alone)
                if same and torch.equal(*(h[first:].nan_to_num() for h in (hidden, self._hidden(others, pack)))):
                    return True
        except _FAILS:
            pass
        self.packed = False
        if self.model.config._attn_implementation != before:
            self.model.set_attn_implementation(before)
        return False

    @torch.inference_mode()
    def _whole(self, ids: Tensor) -> Tensor:
        """The model's own logits: ids [B, T] -> [B, T, V]."""
        logits: Tensor = self.model(input_ids=ids).logits
        return logits

    @torch.inference_mode()
    def _rows(self, ids: Tensor) -> Tensor:
        """What the body hands to the head: ids [B, T] -> [B, T, D]."""
        output = self._body(input_ids=ids)
        self._output = type(output)
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.inference_mode()
    def _hidden(self, ids: Tensor, pack: Pack) -> Tensor:
        """The same for a pack: ids [T] -> [T, D]."""
        if not self.packed:
            if self._one_by_one:
                return torch.cat([self._rows(document[None])[0] for document in ids.split(pack.lengths.tolist())])
            return unpad(self._rows(pad(ids, pack)), pack)
        body = self._compiled.get(pack.tokens, self._body)
        with packed_body.at_hand(pack):
            output = body(input_ids=ids[None], position_ids=packed_body.positions(pack), use_cache=False)
        hidden: Tensor = output.last_hidden_state[0]
        return hidden

    @torch.inference_mode()
    def _own_head(self, hidden: Tensor) -> Tensor:
        """Logits [B, T, V] that the model's own forward pass makes of the body's hidden [B, T, D]."""
        self._body.forward = lambda *_args, **_kwargs: self._output(last_hidden_state=hidden)
        try:
            return self._whole(torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device))
        finally:
            del self._body.forward

    def _logits(self, hidden: Tensor) -> Tensor:
        """The same of a few positions: hidden [N, D] -> [N, V]."""
        return self._own_head(hidden[None])[0]

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

    from scorer.hf_logging import quiet

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
            return Transformer(model, packs=model.device.type == "cuda")
        except BadReference as error:
            raise BadReference(f"{folder}: {error}") from None
        except torch.OutOfMemoryError:
            raise
        except _FAILS as error:
            raise BadReference(f"{folder}: the model does not read plain text ({one_line(error)})") from None


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


def _context(model: Any) -> int:
    """The most positions the model reads, by whichever name its config says it."""
    text = model.config.get_text_config()
    limits = (getattr(text, name, None) for name in _LIMITS)
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    if limit is None:
        return NO_LIMIT
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings())
    for table in tables:  # Roberta and its kin number positions from behind that of padding
        if table.num_embeddings == limit and table.padding_idx is not None:
            return limit - int(table.padding_idx) - 1
    return limit


def _changes_with_length(config: Any) -> bool:
    """Whether a document's scores depend on how long the longest of a batch is.

    So do rotations of positions that are chosen by it, and attention that chooses among the keys, padding included.
    """
    if getattr(config, "index_topk", None):
        return True
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope") for kind in kinds)
