"""The trial of 8-bit products at loading: do they keep the order in which bfloat16 puts real documents?"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import IGNORED, Pack
from scorer.causal_lm.recurrent_state import State
from scorer.causal_lm.trial_texts import trial_texts
from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import Tokenizer

log = logging.getLogger("winnow.reference")
# Rank correlation in each kind of text. Documents of a kind are alike: in a mixed corpus, where scores lie twice as far
# apart, it is then about 0.9995, and selections of half of the documents have 99 % in common.
LEAST_CORRELATION = 0.998
_LONGEST = 1024  # positions of a document
_SHORTEST = 32
_LEAST_DOCUMENTS = 100  # of a kind; fewer say too little
_FIRST_BUDGET = 16_384  # positions of the packs that are read before the model is prepared for larger ones
Documents = dict[str, list[NDArray[np.int64]]]
MeanNll = dict[str, NDArray[np.float64]]


class Model(Protocol):
    """What the trial needs of a model."""

    @property
    def context(self) -> int | None:
        """The most positions that it reads; None for any number."""

    @property
    def full_packs(self) -> bool:
        """Whether packs should be filled up."""

    def nll(self, ids: Tensor, targets: Tensor, pack: Pack) -> tuple[Tensor, State | None]:
        """The NLL of each position, [T] float32."""


class Fp8Trial:
    """The NLL of documents before a model is quantized, for a comparison with that after."""

    def __init__(self, model: Model, tokenizer: Tokenizer, device: str) -> None:
        """Scores the documents with the model as it is. Raises torch.OutOfMemoryError."""
        self._model, self._device = model, device
        self._documents = _tokenized(tokenizer, min(model.context or _LONGEST, _LONGEST))
        self._before = mean_nll(model, self._documents, _FIRST_BUDGET, device)

    def check(self, folder: Path, budget: int) -> None:
        """Scores them again, in packs of `budget` positions.

        Raises BadReference, which names the folder, where the documents have another order, and OutOfMemoryError.
        """
        after = mean_nll(self._model, self._documents, budget, self._device)
        found = {kind: agreement(self._before[kind], after[kind]) for kind in after}
        log.info("%s: rank correlation of fp8 with bfloat16 %s", folder, found)
        kind = min(found, key=lambda kind: found[kind])
        if found[kind] < LEAST_CORRELATION:
            raise BadReference(
                f"{folder}: dtype fp8 would change the order of documents: on real text ({kind}) its scores have a rank"
                f" correlation of {found[kind]:.5f} with those of bfloat16, below {LEAST_CORRELATION}; choose bfloat16"
            )


def agreement(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of two scores of the same documents; -1 where one is not a number."""
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        return -1.0
    first, second = (np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (before, after))
    return float(np.corrcoef(first, second)[0, 1])


def _tokenized(tokenizer: Tokenizer, longest: int) -> Documents:
    """By kind, each document's ids with BOS, if there is one: [N] int64, at most `longest`."""
    start = [] if tokenizer.bos is None else [tokenizer.bos]
    found: Documents = {}
    for kind, texts in trial_texts().items():
        ids = [np.array([*start, *document[:longest].tolist()])[:longest] for document in tokenizer.encode(texts)]
        ids = [document for document in ids if len(document) >= min(_SHORTEST, longest)]
        if len(ids) >= _LEAST_DOCUMENTS:
            found[kind] = ids
    if not found:
        raise BadReference("dtype fp8 needs a trial on Python's own sources, and this Python has too few: install them")
    return found


def mean_nll(model: Model, documents: Documents, budget: int, device: str) -> MeanNll:
    """The NLL a token of each document, in nats."""
    return {kind: _mean_nll(model, of_kind, budget, device) for kind, of_kind in documents.items()}


def _mean_nll(model: Model, documents: list[NDArray[np.int64]], budget: int, device: str) -> NDArray[np.float64]:
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    found = np.empty(len(documents))
    at = 0
    while at < len(order):
        group = [order[at]]
        # No more than rows padded to the longest would take, as models that read no packs make them.
        while at + len(group) < len(order):
            following = order[at + len(group)]
            if (len(group) + 1) * len(documents[following]) > budget:
                break
            group.append(following)
        found[group] = _pack_nll(model, [documents[i] for i in group], budget, device)
        at += len(group)
    return found


def _pack_nll(model: Model, documents: list[NDArray[np.int64]], budget: int, device: str) -> NDArray[np.float64]:
    """The NLL a token of the documents of a pack, which is filled up if the model needs that."""
    lengths = [len(document) for document in documents]
    left = budget - sum(lengths) if model.full_packs else 0
    filling = [min(_piece(model), left - done) for done in range(0, left, _piece(model))]
    ids = np.concatenate([*documents, *(np.zeros(size, dtype=np.int64) for size in filling)])
    targets = np.full(len(ids), IGNORED)
    start = 0
    for length in lengths:
        targets[start : start + length - 1] = ids[start + 1 : start + length]
        start += length
    pack = Pack.of(lengths + filling, device)
    nll, _ = model.nll(torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device), pack)
    parts = nll.double().cpu().split(lengths + filling)[: len(lengths)]
    return np.array([float(part.sum()) / (len(part) - 1) for part in parts])


def _piece(model: Model) -> int:
    """The length of a document that fills up a pack."""
    return min(model.context or _LONGEST, _LONGEST)
