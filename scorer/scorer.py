"""The scoring loop: blocks of documents in, the NLL and the number of scored tokens of each out.

Memory is bounded by a block's text and a batch's tokens. The scores of a block depend on nothing but the block, the
reference and the stride: batches are made by a fixed rule, sums are float64 in the order of the text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from scorer.errors import BadReference
from scorer.reference import Reference
from scorer.tokens import Ids
from scorer.windows import Window, batches, cut, rows, token_budget

OnProgress = Callable[[int, int], None]
Result = TypeVar("Result")
Scores = tuple[NDArray[np.float64], NDArray[np.int64]]

_TICK_SECONDS = 0.5
_LEAVE_SECONDS = 1.0


def score(
    reference: Reference, blocks: Iterable[list[str]], *, stride: int | None = None, on_progress: OnProgress
) -> Iterator[Scores]:
    """For each block of D texts: nll float64 [D] in nats, n_tokens int64 [D].

    `nll` is the sum over a document's scored tokens, NaN where it has none; one that is not finite is left so. `stride`
    is the number of new tokens in each later window of a model with a context limit, by default all but the first id.
    `on_progress(documents, tokens)` is told what is done since the start after each batch, and twice a second while
    texts are tokenized or a CPU is at a batch; it may raise to abort.

    Raises BadReference for a stride that does not fit the model.
    """
    if stride is not None and reference.context is not None and not 1 <= stride < reference.context:
        raise BadReference(
            f"stride {stride} does not fit a context of {reference.context} tokens: take 1 to {reference.context - 1}"
        )
    run = _Run(reference, stride, on_progress)
    return map(run.block, blocks)


class _Run:
    """The counts of one call of `score`, over its blocks."""

    def __init__(self, reference: Reference, stride: int | None, on_progress: OnProgress) -> None:
        self._reference = reference
        self._stride = stride
        self._on_progress = on_progress
        self._budget = token_budget(reference.device.startswith("cuda"), reference.parameters)
        self._documents = 0
        self._tokens = 0

    def block(self, texts: list[str]) -> Scores:
        """Scores a block's texts."""
        bos = self._reference.bos
        streams = [ids if bos is None else np.concatenate(([bos], ids), dtype=np.int32) for ids in self._encode(texts)]
        n_tokens = np.array([max(0, len(stream) - 1) for stream in streams], dtype=np.int64)
        nll = np.where(n_tokens > 0, 0.0, np.nan)
        context = self._reference.context
        long: list[int] = []
        windows: list[Window] = []
        for document, targets in enumerate(n_tokens.tolist()):
            if context is None and targets > self._budget:
                long.append(document)
            else:
                windows.extend(cut(document, targets, context, self._stride))
        document_of = np.array([w.document for w in windows], dtype=np.int64)
        left = np.bincount(document_of, minlength=len(texts))  # windows to go, for each document
        self._documents += int((n_tokens == 0).sum())
        sums = np.zeros(len(windows))
        for batch in batches(windows, self._budget):
            chosen = [windows[i] for i in batch]
            sums[batch] = self._nll(*rows(chosen, streams, bos))[0]
            np.subtract.at(left, document_of[batch], 1)
            ended = int((left[np.unique(document_of[batch])] == 0).sum())
            self._tell(ended, sum(w.stop - w.first for w in chosen))
        np.add.at(nll, document_of, sums)  # one after the other, in the order of the text
        for document in long:
            nll[document] = self._long(streams[document])
        return nll, n_tokens

    def _long(self, stream: Ids) -> float:
        """A document beyond a batch, for a model of any length: in pieces, the state of one carried on to the next."""
        total, state, targets = 0.0, None, len(stream) - 1
        for start in range(0, targets, self._budget):
            stop = min(start + self._budget, targets)
            ids, wanted = rows([Window(0, start, start, stop)], [stream], None)
            sums, state = self._nll(ids, wanted, state, keep_state=stop < targets)
            total += float(sums[0])
            self._tell(int(stop == targets), stop - start)
        return total

    def _nll(
        self, ids: NDArray[np.int64], targets: NDArray[np.int64], state: Any = None, keep_state: bool = False
    ) -> tuple[NDArray[np.float64], Any]:
        """The NLL of each row [B], summed in float64 by numpy: torch may divide a sum among its threads."""
        device, model = self._reference.device, self._reference.model
        inputs = torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device)

        def forward() -> tuple[torch.Tensor, Any]:
            return model.nll(*inputs, state, keep_state=keep_state)

        # On a GPU nobody is told that a batch goes on: if it hangs, others are to notice.
        nll, after = forward() if device.startswith("cuda") else self._beside(forward)
        return nll.cpu().numpy().astype(np.float64).sum(axis=1), after

    def _tell(self, documents: int, tokens: int) -> None:
        self._documents += documents
        self._tokens += tokens
        self._on_progress(self._documents, self._tokens)

    def _encode(self, texts: list[str]) -> list[Ids]:
        return self._beside(lambda: self._reference.tokenizer.encode(texts))

    def _beside(self, call: Callable[[], Result]) -> Result:
        """The result of a call that may take long, made in a thread beside: the caller hears from us meanwhile."""
        done: list[Result] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                done.append(call())
            except BaseException as error:  # raised again by the caller's thread
                failed.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(_TICK_SECONDS)
                if thread.is_alive():
                    self._tell(0, 0)
        except BaseException:
            thread.join(_LEAVE_SECONDS)  # most end by then, and none is left running in a process that ends
            raise
        if failed:
            raise failed[0]
        return done[0]
