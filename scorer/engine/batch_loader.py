"""Documents to batches in a thread beside the one that scores: reads, tokenizes, cuts, groups and lays them out.

A fixed number of buffers goes round, so the thread is at most as many batches ahead. What comes out depends on nothing
but the documents, the reference and the stride.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.pack import IGNORED
from scorer.causal_lm.reference import Reference
from scorer.engine.packing import batches
from scorer.engine.windows import Block, Window
from scorer.tokenizer.backends import Encoded

_SLOTS = 4  # batches that are laid out, on the device, or on the way between
_SAMPLE = 1 << 16  # characters of a shard on which a fast tokenizer is checked
_TICK_SECONDS = 0.5  # between two calls of whoever waits
_SILENT_SECONDS = 2000.0  # after which reading, which gives up by itself before, counts as hung: nobody is called then
_LEAVE_SECONDS = 10.0  # for what is being tokenized to end: a thread left in foreign code makes an ending process abort


class Slot:
    """Room for a batch: `ids` and `targets` on the host (pinned where there is a GPU) and their twins on the device."""

    def __init__(self, reference: Reference) -> None:
        on_gpu = reference.device.startswith("cuda")
        capacity = max(reference.budget, reference.context or 0)
        self.host = torch.zeros(2, capacity, dtype=torch.int64, pin_memory=on_gpu)
        self.device = torch.empty_like(self.host, device=reference.device) if on_gpu else self.host


@dataclass(frozen=True)
class Batch:
    """Windows that a model reads at once: their inputs and targets lie in `slot`, one window after the other."""

    windows: list[Window]
    lengths: NDArray[np.int64]  # of the windows, then of documents without a target that fill the pack up
    slot: Slot

    @property
    def positions(self) -> int:
        """Positions in all."""
        return int(self.lengths.sum())


class Feed:
    """A shard's batches, made ahead. `blocks` has the documents in order, complete once `get` has given None."""

    def __init__(self, reference: Reference, texts: Iterable[list[str]], stride: int | None, readers: int) -> None:
        self.blocks: deque[Block] = deque()
        self.ended = False  # all is laid out
        self.budget = reference.budget  # a shard keeps that of its start
        self._reference = reference
        self._texts = texts
        self._stride = stride
        self._readers = readers
        self._ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        for _ in range(_SLOTS):
            self._free.put(Slot(reference))
        self._alive = time.monotonic()
        self._stopped = False
        self._over = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def get(self, meanwhile: Callable[[], None]) -> Batch | None:
        """The next batch, None after the last; raises what reading raised. `meanwhile` is called while it is made."""
        while True:
            try:
                found = self._ready.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                if time.monotonic() - self._alive < _SILENT_SECONDS:
                    meanwhile()
                continue
            if isinstance(found, BaseException):
                raise found
            return found

    def release(self, batch: Batch) -> None:
        """Gives a batch's room back."""
        self._free.put(batch.slot)

    def close(self) -> None:
        """Ends the thread, wherever it is; what is ready is lost."""
        self._stopped = True
        self._free.put(None)
        self._over.wait(_LEAVE_SECONDS)

    def _run(self) -> None:
        try:
            reference = self._reference
            for windows in batches(self._windows(), self.budget, reference.model.packed, reference.recurrent):
                slot = self._free.get()
                if slot is None or self._stopped:
                    return  # and with it the generators, that of the texts too
                self._ready.put(lay_out(windows, slot, reference, self.budget))
                self._alive = time.monotonic()
            self.ended = True
            self._ready.put(None)
        except BaseException as error:  # raised again by the thread that scores
            self._ready.put(error)
        finally:
            self._over.set()

    def _windows(self) -> Iterator[Window]:
        reference = self._reference
        for tokens in self._tokenized():
            block = Block(tokens, reference.bos)
            windows = block.cut(reference.context, self._stride)
            self.blocks.append(block)
            yield from windows

    def _tokenized(self) -> Iterator[Encoded]:
        """Blocks, tokenized by a thread each, of which some are at work while the next are read."""
        tokenizer = self._reference.tokenizer
        pending: deque[Future[Encoded]] = deque()
        try:
            checked = False
            for texts in self._texts:
                if self._stopped:
                    return
                self._alive = time.monotonic()
                if not checked and any(texts):
                    tokenizer.check(_sample(texts))
                    checked = True
                future: Future[Encoded] = Future()
                threading.Thread(target=_fulfil, args=(future, tokenizer.encode, texts), daemon=True).start()
                pending.append(future)
                if len(pending) > self._readers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            wait(pending)
            if isinstance(self._texts, Generator):
                self._texts.close()  # here, and not when the process ends: it may hold a file open


def lay_out(windows: list[Window], slot: Slot, reference: Reference, budget: int) -> Batch:
    """Writes windows one after the other, and fills up a pack that its model wants full."""
    ids, targets = slot.host.numpy()
    lengths = [window.length for window in windows]
    at = 0
    for window, length in zip(windows, lengths, strict=True):
        window.block.fill(window, ids[at : at + length], targets[at : at + length], IGNORED)
        at += length
    room = budget - at
    if reference.model.full_packs and room > 0:
        most = reference.context or room
        ids[at : at + room], targets[at : at + room] = 0, IGNORED
        lengths += [min(most, room - start) for start in range(0, room, most)]
    return Batch(windows, np.array(lengths, np.int64), slot)


def _sample(texts: list[str]) -> list[str]:
    """The first texts, up to a fixed size."""
    sample: list[str] = []
    left = _SAMPLE
    for text in texts:
        sample.append(text[:left])
        left -= len(text)
        if left <= 0:
            break
    return sample


def _fulfil(future: Future[Encoded], encode: Callable[[list[str]], Encoded], texts: list[str]) -> None:
    try:
        future.set_result(encode(texts))
    except BaseException as error:  # raised again where the result is asked for
        future.set_exception(error)
