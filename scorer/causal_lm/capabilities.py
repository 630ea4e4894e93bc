"""What a causal LM of transformers can do, found by trial when it is loaded.

No fast way is taken for granted. Each is tried on random tokens and compared with the model's own forward pass, so that
biases, scalings and soft caps are never lost: body and head apart, attention over packs, a compiled body.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kernels.pack import Pack
from scorer.causal_lm.compiled import CompiledBody, Run, compile_body
from scorer.causal_lm.forward import Body, body_hidden, head_logits, pack_hidden, whole_logits
from scorer.causal_lm.head import Head, choose_head
from scorer.causal_lm.packed_attention import attend_over, positions, use_packed_attention
from scorer.errors import BadReference

# Positions of a model whose config names no limit (ALiBi, for one): its memory may grow with the square of them.
NO_LIMIT = 8192
_LARGEST_LIMIT = 1 << 20  # no model is run on more positions at a time: a larger limit means that there is none
_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "context_length",
    "n_ctx",
    "max_target_positions",
)
_SPANS = ("sliding_window", "attention_chunk_size", "attention_window_size")  # tokens that some attention looks back
PROBE = 24  # tokens that a trial reads
# What a trial raises with a model that is built in another way.
TRIAL_ERRORS = (RuntimeError, TypeError, AttributeError, ValueError, IndexError, KeyError)


@dataclass(frozen=True)
class Capabilities:
    """What the trials found. With `body` and `head` None only the whole model works, a document at a time."""

    context: int  # positions that the model reads, at most
    vocab_size: int  # ids that it can both read and predict
    tolerance: float  # between logits that differ by rounding only, relative to the largest
    one_by_one: bool  # a document's scores depend on the longest of its batch
    body: Body | None = None
    head: Head | None = None
    packed: bool = False  # the body attends over packs
    compiled: CompiledBody | None = None

    def same(self, a: Tensor, b: Tensor) -> bool:
        """Whether logits are equal except for rounding, and not finite at the same places."""
        if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
            return False
        a, b = a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)
        return bool((a - b).abs().max() <= self.tolerance * b.abs().max())


def find_capabilities(model: Any, packs: bool) -> Capabilities:
    """Makes the trials in turn; attention over packs only if `packs`. The model then attends as `packed` says.

    Raises BadReference for a model that cannot score.
    """
    known = try_forward(model)
    separate = try_body_and_head(model, known)
    if separate is None:
        return known
    body, head = separate
    known = replace(known, body=body, head=head)
    return replace(known, packed=packs and try_packed_attention(model, known))


def try_forward(model: Any) -> Capabilities:
    """Runs the model as it is. Raises BadReference if it reads one token at a time or is not causal."""
    context = find_context(model)
    if context < 2:
        raise BadReference(f"the model reads {context} token at a time, too few to predict one")
    rows = int(model.get_input_embeddings().num_embeddings)
    ids = random_ids(model, min(PROBE, context), rows)[None]
    whole = whole_logits(model, ids)
    exact = whole.dtype == torch.float32 and model.dtype == torch.float32
    found = Capabilities(
        context=context,
        vocab_size=min(rows, whole.shape[-1]),
        tolerance=1e-4 if exact else 5e-2,
        one_by_one=changes_with_length(model.config.get_text_config()),
    )
    half = ids.shape[1] // 2
    if not found.same(whole_logits(model, ids[:, :half]), whole[:, :half]):
        raise BadReference("the model is not causal: its predictions change with the text that follows")
    return found


def try_body_and_head(model: Any, known: Capabilities) -> tuple[Body, Head] | None:
    """The body, and the quickest head, that together give the model's own logits; None if they cannot be separated."""
    ids = random_ids(model, min(PROBE, known.context), int(model.get_input_embeddings().num_embeddings))[None]
    whole = whole_logits(model, ids)
    for module in (model.base_model, model.get_decoder()):
        if module is model or module is None:
            continue
        try:
            with torch.inference_mode():
                output = module(input_ids=ids)
            body, hidden = Body(module, type(output)), output.last_hidden_state
            own = partial(head_logits, model, body)
            if known.same(own(hidden), whole):
                return body, choose_head(model, hidden, own, known.vocab_size, known.same)
        except TRIAL_ERRORS:
            continue
    return None


def try_packed_attention(model: Any, known: Capabilities) -> bool:
    """Switches the model to attention over packs if documents in a pack then score as alone and see no other document.

    Otherwise the model is left as it was.
    """
    body = known.body
    if body is None or known.one_by_one:
        return False
    config = model.config.get_text_config()
    spans = [span for name in _SPANS if isinstance(span := getattr(config, name, None), int)]
    longest = min(known.context, NO_LIMIT, max([*spans, 0]) + PROBE)
    lengths = [min(known.context, 2), 1, longest, min(known.context, 7)]
    pack = Pack.of(lengths, model.device)
    ids, others = (random_ids(model, pack.tokens, known.vocab_size, seed) for seed in (0, 1))
    first = lengths[0]
    others[first:] = ids[first:]  # another first document before the same others
    alone = torch.cat([whole_logits(model, part[None])[0] for part in ids.split(lengths)])
    before = model.config._attn_implementation
    try:
        if use_packed_attention(model):
            hidden = pack_hidden(body.run, ids, pack)
            if known.same(head_logits(model, body, hidden[None])[0], alone):
                beside_others = pack_hidden(body.run, others, pack)
                if torch.equal(hidden[first:].nan_to_num(), beside_others[first:].nan_to_num()):
                    return True
    except TRIAL_ERRORS:
        pass
    if model.config._attn_implementation != before:
        model.set_attn_implementation(before)
    return False


def try_compiled(model: Any, known: Capabilities, tokens: int) -> CompiledBody | None:
    """The body compiled for packs of so many tokens; None if it cannot be compiled or gives other logits.

    Raises torch.OutOfMemoryError.
    """
    body = known.body
    if body is None or not known.packed:
        return None
    lengths = [min(known.context, tokens - start) for start in range(0, tokens, known.context)]
    ids, pack = random_ids(model, tokens, known.vocab_size), Pack.of(lengths, model.device)
    some = torch.arange(0, tokens, max(1, tokens // (8 * PROBE)), device=model.device)

    def logits(run: Run) -> Tensor:
        return head_logits(model, body, pack_hidden(run, ids, pack)[some][None])

    eager = logits(body.run)
    with torch.inference_mode(), attend_over(pack):
        return compile_body(
            body_hidden, body.module, ids[None], positions(pack), lambda run: known.same(logits(run), eager)
        )


def replace_absurd_limits(config: Any) -> int | None:
    """Writes NO_LIMIT over a limit on which no model is run, before models make tables of it. Returns that limit."""
    absurd = None
    text = config.get_text_config()
    for name in _LIMITS:
        limit = getattr(text, name, None)
        if isinstance(limit, int) and limit > _LARGEST_LIMIT:
            setattr(text, name, NO_LIMIT)
            absurd = limit
    return absurd


def find_context(model: Any) -> int:
    """The most positions that the model reads, under whichever name its config has it."""
    text = model.config.get_text_config()
    limits = (getattr(text, name, None) for name in _LIMITS)
    limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
    if limit is None:
        return NO_LIMIT
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings())
    for table in tables:  # Roberta and its relatives count positions from after that of padding
        if table.num_embeddings == limit and table.padding_idx is not None:
            return limit - int(table.padding_idx) - 1
    return limit


def changes_with_length(config: Any) -> bool:
    """Whether a document's scores depend on the longest document of its batch.

    They do with rotary angles that are chosen by that length, and with attention that selects among the keys, padding
    included.
    """
    if getattr(config, "index_topk", None):
        return True
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    return any(kind.get("rope_type", kind.get("type")) in ("dynamic", "longrope") for kind in kinds)


def random_ids(model: Any, length: int, below: int, seed: int = 0) -> Tensor:
    """Random token ids [length] int64 on the model's device, the same ones for the same arguments."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(below, (length,), generator=draw).to(model.device)
