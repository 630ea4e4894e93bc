"""Forward passes of a classifier of transformers, in batches where a trial shows that these change no value.

It reads packs, else padded rows, else one document at a time. Over a pack the body reads all documents at once, each of
which sees itself alone, and the model's own head gets the hidden states of each document as its body would have given
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import Pack
from scorer.causal_lm.capabilities import NO_LIMIT, TRIAL_ERRORS, find_context, random_ids
from scorer.causal_lm.compiled import CompiledBody, Run, compile_body
from scorer.causal_lm.packed_attention import attend_over, positions, use_packed_attention
from scorer.causal_lm.padding import pad

_PROBE = 24  # tokens that a trial reads
_LEAST_FULL = 0.75  # of a pack that is filled up
_SPANS = ("sliding_window", "local_attention")  # tokens that some attention looks to


@dataclass(frozen=True)
class PackedWay:
    """How a model reads packs."""

    padding: int | None  # id of padding, after which positions are counted; None: they start at 0
    first_only: bool  # the head needs only the first token's hidden state
    output: type  # of the body


class ClassifierModel:
    """Runs a sequence-classification model with one output in the fastest way that it allows."""

    def __init__(self, model: Any, padding: int, *, packs: bool) -> None:
        """`model` is on its device, in its dtype; `padding` the id of padding. With `packs` it reads them, if it can.

        Raises what torch and the model raise for one that cannot read text.
        """
        self.model = model
        self.context = find_context(model)
        self._padding = padding
        self._packed: PackedWay | None = None
        self._pads = True  # whether padding changes no value
        self.compiled: CompiledBody | None = None
        ids = random_ids(model, min(_PROBE, self.context), self.rows)
        self.values(ids, Pack.of([len(ids)], model.device))
        self._pads = self._allows_padding()
        if packs:
            self._packed = self._find_packed_way()

    @property
    def packed(self) -> bool:
        """Whether it reads packs without padding."""
        return self._packed is not None

    @torch.inference_mode()
    def compile(self, tokens: int) -> None:
        """Compiles the body for packs of exactly `tokens` tokens, if it then gives the same hidden states.

        Such packs run faster, see `fill`. Raises torch.OutOfMemoryError.
        """
        self.compiled = None
        if self._packed is None:
            return
        padding, longest = self._packed.padding, min(self.context, tokens)
        pack = Pack.of([min(longest, tokens - start) for start in range(0, tokens, longest)], self.model.device)
        ids = random_ids(self.model, tokens, self.rows)
        eager = self._pack_hidden(ids, pack, padding)

        def is_right(run: Run) -> bool:
            return self._same(self._pack_hidden(ids, pack, padding, CompiledBody(run, tokens)), eager)

        with attend_over(pack):
            places = _places(ids, pack, padding)
            self.compiled = compile_body(_last_hidden, self.model.base_model, ids[None], places, is_right)

    def fill(self, windows: list[NDArray[np.int32]]) -> list[NDArray[np.int32]]:
        """The windows, and after them some of padding where a full pack is faster than this one."""
        total, wanted = sum(map(len, windows)), 0 if self.compiled is None else self.compiled.tokens
        if not _LEAST_FULL * wanted <= total < wanted:
            return windows
        longest = min(self.context, wanted)
        left = [min(longest, wanted - start) for start in range(total, wanted, longest)]
        return windows + [np.full(length, self._padding, np.int32) for length in left]

    @property
    def rows(self) -> int:
        """The number of ids that it can read."""
        return int(self.model.get_input_embeddings().num_embeddings)

    @torch.inference_mode()
    def values(self, ids: Tensor, pack: Pack) -> Tensor:
        """The output for each document of a pack: ids [T] int64 -> [S] float32."""
        if self._packed is None:
            return self._padded(ids, pack)
        hidden = self._pack_hidden(ids, pack, self._packed.padding, self.compiled)
        return self._head(hidden, pack, self._packed)

    def _padded(self, ids: Tensor, pack: Pack) -> Tensor:
        lengths: list[int] = pack.lengths.tolist()
        if len(lengths) > 1 and not self._pads:
            alone = zip(ids.split(lengths), lengths, strict=True)
            return torch.cat([self._padded(part, Pack.of([length], part.device)) for part, length in alone])
        mask = pad(torch.ones_like(ids), pack)
        rows = pad(ids, pack)
        rows = torch.where(mask > 0, rows, self._padding)
        logits: Tensor = self.model(input_ids=rows, attention_mask=mask).logits
        return logits.float().view(len(pack.lengths))

    def _pack_hidden(
        self, ids: Tensor, pack: Pack, padding: int | None, compiled: CompiledBody | None = None
    ) -> Tensor:
        """The body's hidden states of a pack, [T, D]; by a compiled body if the pack has its size."""
        places = _places(ids, pack, padding)
        with attend_over(pack):
            if compiled is not None and compiled.tokens == pack.tokens:
                hidden = compiled.run(ids[None], places)
            else:
                hidden = _last_hidden(self.model.base_model, ids[None], places)
        return hidden[0]

    def _head(self, hidden: Tensor, pack: Pack, way: PackedWay) -> Tensor:
        """The model's own head over hidden states [T, D] of a pack: [S] float32."""
        body = self.model.base_model
        if way.first_only:
            rows = hidden[pack.cu_seqlens[:-1].long()][:, None]  # [S, 1, D]
            mask = torch.ones(rows.shape[:2], dtype=torch.int64, device=hidden.device)
        else:
            mask = pad(torch.ones(pack.tokens, dtype=torch.int64, device=hidden.device), pack)
            rows = hidden[pad(torch.arange(pack.tokens, device=hidden.device), pack)]
        pooler = getattr(body, "pooler", None)
        pooled = {} if pooler is None else {"pooler_output": pooler(rows)}
        body.forward = lambda *_args, **_kwargs: way.output(last_hidden_state=rows, **pooled)
        try:
            logits: Tensor = self.model(input_ids=torch.zeros_like(mask), attention_mask=mask).logits
        finally:
            del body.forward
        return logits.float().view(len(pack.lengths))

    def _allows_padding(self) -> bool:
        """Whether documents in padded rows come out as alone. Raises as a model does that cannot read one alone."""
        lengths = [min(self.context, length) for length in (7, _PROBE, 2)]
        pack = Pack.of(lengths, self.model.device)
        ids = random_ids(self.model, pack.tokens, self.rows)
        alone = [self.values(part, Pack.of([len(part)], self.model.device)) for part in ids.split(lengths)]
        close = self._close()
        try:
            return torch.allclose(self.values(ids, pack), torch.cat(alone), rtol=close, atol=close)
        except torch.OutOfMemoryError:
            raise
        except TRIAL_ERRORS:
            return False

    @torch.inference_mode()
    def _find_packed_way(self) -> PackedWay | None:
        """Switches the model to attention over packs, if documents in a pack then come out as alone; None if not."""
        model, body = self.model, self.model.base_model
        spans = [span for name in _SPANS if isinstance(span := getattr(model.config, name, None), int)]
        longest = min(self.context, NO_LIMIT, max([*spans, 0]) + _PROBE)
        lengths = [min(self.context, 2), 1, longest, min(self.context, 7)]
        pack = Pack.of(lengths, model.device)
        ids, others = (random_ids(model, pack.tokens, self.rows, seed) for seed in (0, 1))
        others[lengths[0] :] = ids[lengths[0] :]  # another first document before the same others
        before = model.config._attn_implementation
        try:
            documents = [part[None] for part in ids.split(lengths)]
            outputs = [body(input_ids=part) for part in documents]
            alone = torch.cat([output.last_hidden_state[0] for output in outputs])
            values = torch.cat([model(input_ids=part).logits.float().view(1) for part in documents])
            if use_packed_attention(model, causal=False):
                for padding in (None, self._padding):
                    hidden = self._pack_hidden(ids, pack, padding)
                    if not self._same(hidden, alone):
                        continue
                    beside = self._pack_hidden(others, pack, padding)
                    if not torch.equal(hidden[lengths[0] :], beside[lengths[0] :]):
                        break
                    for first_only in (True, False):
                        way = PackedWay(padding, first_only, type(outputs[0]))
                        if self._same(self._head(hidden, pack, way), values):
                            return way
        except TRIAL_ERRORS:
            pass
        if model.config._attn_implementation != before:
            model.set_attn_implementation(before)
        return None

    def _same(self, a: Tensor, b: Tensor) -> bool:
        """Whether values differ by rounding only, relative to their norm."""
        return a.shape == b.shape and bool((a.float() - b.float()).norm() <= self._close() * b.float().norm())

    def _close(self) -> float:
        return 1e-4 if self.model.dtype == torch.float32 else 3e-2


def _places(ids: Tensor, pack: Pack, padding: int | None) -> Tensor:
    """Each token's position in its document, [1, T] int64: with `padding` as Roberta and its relatives count."""
    if padding is None:
        return positions(pack)
    there = (ids != padding).long()  # tokens of padding have no place
    before = torch.cumsum(there, 0) - there
    starts = pack.cu_seqlens[:-1].long().repeat_interleave(pack.cu_seqlens.diff(), output_size=pack.tokens)
    return ((before - before[starts] + 1) * there + padding)[None]


def _last_hidden(body: Any, ids: Tensor, places: Tensor) -> Tensor:
    """The hidden states of a body, [1, T, D]."""
    hidden: Tensor = body(input_ids=ids, position_ids=places).last_hidden_state
    return hidden


def pack_of(windows: list[np.ndarray], device: str) -> tuple[Tensor, Pack]:
    """Windows of ids as one pack: [T] int64 and its layout, on the device. To a GPU the copies are asynchronous."""
    ids = torch.from_numpy(np.concatenate(windows).astype(np.int64))
    if device.startswith("cuda"):
        ids = ids.pin_memory().to(device, non_blocking=True)
    return ids, Pack.of([len(window) for window in windows], device)
