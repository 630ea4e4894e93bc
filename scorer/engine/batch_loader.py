"""Makes batches ahead, in a thread: reads blocks of documents, tokenizes, cuts and groups them, writes the inputs.

A fixed number of buffers is reused, so the thread is at most that many batches ahead. The batches depend on nothing but
the documents in their order, the reference, its budget and the stride.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kernels.pack import IGNORED
from scorer.causal_lm.reference import Reference
from scorer.engine.packing import batches
from scorer.engine.windows import TokenizedBlock, Window
from scorer.tokenizer.backends import Encoded

Tag = TypeVar("Tag")

_BUFFERS = 4  # batches that are ready, copied to the device or running
_TOKENIZING = 2  # blocks that are tokenized at the same time, while the next is read
_SAMPLE = 1 << 16  # characters of the first texts on which a fast tokenizer is checked
_WAIT_SECONDS = 0.5  # between two calls of `while_waiting`
_HUNG_SECONDS = 2000.0  # without a block or a batch: reading counts as hung. It has shorter time limits of its own.
_CLOSE_SECONDS = 10.0  # for a running call of the tokenizer to end: a thread left in it may abort the process at exit


class BatchBuffer:
    """Memory for one batch: rows `ids` and `targets`, `host` [2, N] int64 (pinned for a GPU) and `device` alike."""

    def __init__(self, reference: Reference) -> None:
        on_gpu = reference.device.startswith("cuda")
        capacity = max(reference.budget, reference.context or 0)
        self.host = torch.zeros(2, capacity, dtype=torch.int64, pin_memory=on_gpu)
        self.device = torch.empty_like(self.host, device=reference.device) if on_gpu else self.host


@dataclass(frozen=True)
class Batch:
    """Windows that a model reads at once; `buffer` holds their inputs and targets, one window after the other."""

    windows: list[Window]
    lengths: NDArray[np.int64]  # of the windows, then of documents without targets that fill up the pack
    buffer: BatchBuffer

    @property
    def positions(self) -> int:
        """Positions in all."""
        return int(self.lengths.sum())


class BatchLoader(Generic[Tag]):
    """The batches of some blocks of texts. Loading begins at once, in a thread of its own.

    `blocks` has (tag, block) in the order read; it is complete once `next_batch` has returned None.
    """

    def __init__(
        self, reference: Reference, texts: Iterable[tuple[list[str] | Encoded, Tag]], stride: int | None
    ) -> None:
        """`texts`, or their tokens, are iterated in the loader's thread; a generator is closed there too."""
        self.blocks: deque[tuple[Tag, TokenizedBlock]] = deque()
        self.all_loaded = False
        self.budget = reference.budget  # fixed at the start, even if the reference's is halved meanwhile
        self._reference = reference
        self._texts = texts
        self._stride = stride
        self._ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[BatchBuffer | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(BatchBuffer(reference))
        self._last_progress = time.monotonic()
        self._closed = False
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="batch-loader", daemon=True).start()

    def next_batch(self, while_waiting: Callable[[], None]) -> Batch | None:
        """The next batch, None after the last. Raises what reading raised.

        `while_waiting` is called twice a second until the batch is ready, but not when reading has hung.
        """
        while True:
            try:
                found = self._ready.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                if time.monotonic() - self._last_progress < _HUNG_SECONDS:
                    while_waiting()
                continue
            if isinstance(found, BaseException):
                raise found
            return found

    def release(self, batch: Batch) -> None:
        """Gives the batch's buffer back for another."""
        self._free.put(batch.buffer)

    def close(self) -> None:
        """Ends the thread, wherever it is; batches that are ready are lost."""
        self._closed = True
        self._free.put(None)
        self._ended.wait(_CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            reference = self._reference
            for windows in batches(self._windows(), self.budget, reference.model.packed, reference.recurrent):
                buffer = self._free.get()
                if buffer is None or self._closed:
                    return  # this closes the generators, that of the texts too
                self._ready.put(lay_out(windows, buffer, reference, self.budget))
                self._last_progress = time.monotonic()
            self.all_loaded = True
            self._ready.put(None)
        except BaseException as error:  # raised again by `next_batch`
            self._ready.put(error)
        finally:
            self._ended.set()

    def _windows(self) -> Iterator[Window]:
        reference = self._reference
        for tag, tokens in self._tokenized():
            block = TokenizedBlock(tokens, reference.bos)
            windows = block.cut(reference.context, self._stride)
            self.blocks.append((tag, block))
            yield from windows

    def _tokenized(self) -> Iterator[tuple[Tag, Encoded]]:
        """The blocks in order, each tokenized in a thread of its own while the next ones are read."""
        tokenizer = self._reference.tokenizer
        pending: deque[tuple[Tag, Future[Encoded]]] = deque()
        try:
            checked = False
            for texts, tag in self._texts:
                if self._closed:
                    return
                self._last_progress = time.monotonic()
                if isinstance(texts, Encoded):
                    yield tag, texts
                    continue
                if not checked and any(texts):
                    tokenizer.check(sample(texts))
                    checked = True
                future: Future[Encoded] = Future()
                threading.Thread(target=_fulfil, args=(future, tokenizer.encode, texts), daemon=True).start()
                pending.append((tag, future))
                if len(pending) > _TOKENIZING:
                    tag, future = pending.popleft()
                    yield tag, future.result()
            while pending:
                tag, future = pending.popleft()
                yield tag, future.result()
        finally:
            wait([future for _, future in pending])
            if isinstance(self._texts, Generator):
                self._texts.close()  # here, and not when the process ends: it may hold a file open


def lay_out(windows: list[Window], buffer: BatchBuffer, reference: Reference, budget: int) -> Batch:
    """Writes the windows into the buffer, one after the other; for a model that needs full packs, fills up the rest."""
    ids, targets = buffer.host.numpy()
    lengths = [window.length for window in windows]
    at = 0
    for window, length in zip(windows, lengths, strict=True):
        window.block.fill(window, ids[at : at + length], targets[at : at + length], IGNORED)
        at += length
    room = budget - at
    if reference.model.full_packs and room > 0:
        longest = reference.context or room
        ids[at : at + room], targets[at : at + room] = 0, IGNORED
        lengths += [min(longest, room - start) for start in range(0, room, longest)]
    return Batch(windows, np.array(lengths, np.int64), buffer)


def sample(texts: list[str]) -> list[str]:
    """The first texts, up to a fixed size, by which two tokenizers are compared."""
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
    except BaseException as error:  # raised again by `future.result`
        future.set_exception(error)
