"""The loop of a classifier: blocks of documents in, the value of each document out.

A thread reads and tokenizes some blocks ahead. Windows are gathered in groups, sorted by length and read in batches of
the classifier's budget. The groups and batches depend on nothing but the documents in their order and the budget.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scorer.causal_lm.reference import memory_errors
from scorer.classifier.classifier import Classifier
from scorer.classifier.forward import pack_of
from scorer.classifier.windows import Windows
from scorer.engine.batch_loader import Tag, sample
from scorer.engine.executor import run_in_thread
from scorer.engine.host_copy import copy_to_host

OnProgress = Callable[[int, int], None]
Values = tuple[Tag, NDArray[np.float32]]

_AHEAD = 8  # blocks that are tokenized ahead
_GROUP = 8  # batches whose windows are sorted together, at most
_WAIT_SECONDS = 0.5  # between two calls of `on_progress` while a block is awaited
_CLOSE_SECONDS = 10.0  # for the loading thread to end


def classify(
    classifier: Classifier,
    blocks: Iterable[tuple[list[str], Tag]],
    *,
    windows: Literal["first", "all"] = "first",
    aggregate: Literal["mean", "max"] = "mean",
    on_progress: OnProgress = lambda _documents, _tokens: None,
) -> Classifying[Tag]:
    """Gives (tag, values float32 [D]) for each block of (D texts, tag), in order. NaN for a text without a token.

    A value is the raw output for the first window of a text, as its tokenizer truncates it; with `windows` all, the
    mean or the largest of the outputs for its windows, one after the other without overlap.

    `blocks` is iterated in another thread, some blocks ahead. A caller that does not iterate to the end calls `close`.
    `on_progress(documents, tokens)` gets the counts done so far, at least every second, and may raise to abort.
    Iterating raises OutOfMemory if the device's memory is too small for the budget, and what `blocks` raises.
    """
    return Classifying(classifier, blocks, windows == "all", aggregate, on_progress)


class _Block(Generic[Tag]):
    """A block of documents whose windows are read."""

    def __init__(self, tag: Tag, windows: Windows) -> None:
        self.tag, self.windows = tag, windows
        self.outputs = np.full(len(windows.ids), np.nan, np.float32)
        self.left = len(windows.ids)

    def values(self, aggregate: str) -> NDArray[np.float32]:
        """The value of each document."""
        document, documents = self.windows.document, self.windows.documents
        counts = np.bincount(document, minlength=documents)
        if aggregate == "max":
            values = np.full(documents, -np.inf)
            np.maximum.at(values, document, self.outputs)
        else:
            with np.errstate(invalid="ignore"):
                values = np.bincount(document, self.outputs, documents) / counts
        return np.where(counts > 0, values, np.nan).astype(np.float32)


class _Window(NamedTuple):
    block: _Block[object]
    number: int  # among the block's windows
    length: int


class _Running(NamedTuple):
    """A group under way: its windows in the order in which they are read, and the output of each [W] on the host."""

    windows: list[_Window]
    outputs: Tensor
    copied: torch.cuda.Event | None  # after which the outputs are there; None: they are


class Classifying(Generic[Tag]):
    """An iterator over the values of blocks, with counts of what is done. Reading has begun when it is made."""

    def __init__(
        self,
        classifier: Classifier,
        blocks: Iterable[tuple[list[str], Tag]],
        all_windows: bool,
        aggregate: str,
        on_progress: OnProgress,
    ) -> None:
        self.documents = 0
        self.tokens = 0
        self.all_loaded = False  # whether every text is read and tokenized
        self._classifier, self._all_windows, self._aggregate = classifier, all_windows, aggregate
        self.budget = classifier.budget  # one for all, even if the classifier's is halved meanwhile
        # A batch lacks less than a window, so that a group of this size has no small batch at its end.
        self._group = _GROUP * max(self.budget - classifier.tokenizer.limit, self.budget // 2)
        self._on_progress = on_progress
        self._texts = blocks
        self._ready: queue.Queue[_Block[Tag] | BaseException | None] = queue.Queue(_AHEAD)
        self._closed, self._ended = threading.Event(), threading.Event()
        self._values = self._run()
        threading.Thread(target=self._load, name="window-loader", daemon=True).start()

    def __iter__(self) -> Iterator[Values[Tag]]:
        return self._values

    def close(self) -> None:
        """Ends reading and scoring, wherever they are."""
        self._values.close()
        self._closed.set()
        self._ended.wait(_CLOSE_SECONDS)

    # -- in the thread
    def _load(self) -> None:
        tokenizer = self._classifier.tokenizer
        try:
            # The library works on all cores at a block, but not all the time: some blocks are at work at once.
            with ThreadPoolExecutor(tokenizer.threads, "tokenizer") as pool:
                begun: deque[tuple[Tag, Future[Windows]]] = deque()
                checked = False
                for texts, tag in self._texts:
                    if not checked and any(texts):
                        tokenizer.check(sample(texts))
                        checked = True
                    begun.append((tag, pool.submit(tokenizer.encode, texts, self._all_windows)))
                    if len(begun) > tokenizer.threads and not self._put_first(begun):
                        return
                while begun:
                    if not self._put_first(begun):
                        return
            self.all_loaded = True
            self._put(None)
        except BaseException as error:  # raised again by `_next_block`
            self._put(error)
        finally:
            if isinstance(self._texts, Generator):
                self._texts.close()  # here, and not when the process ends: it may hold a file open
            self._ended.set()

    def _put_first(self, begun: deque[tuple[Tag, Future[Windows]]]) -> bool:
        """Hands over the first block; False when the reader has stopped."""
        tag, windows = begun.popleft()
        return self._put(_Block(tag, windows.result()))

    def _put(self, found: _Block[Tag] | BaseException | None) -> bool:
        """Hands over a block; False when the reader has stopped."""
        while not self._closed.is_set():
            try:
                self._ready.put(found, timeout=_WAIT_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    # -- in the caller's
    def _next_block(self) -> _Block[Tag] | None:
        while True:
            try:
                found = self._ready.get(timeout=_WAIT_SECONDS)
            except queue.Empty:
                self._report()
                continue
            if isinstance(found, BaseException):
                raise found
            return found

    def _run(self) -> Generator[Values[Tag], None, None]:
        blocks: deque[_Block[Tag]] = deque()
        gathered: list[_Window] = []
        size = 0
        running: deque[_Running] = deque()
        on_gpu = self._classifier.device.startswith("cuda")
        while (block := self._next_block()) is not None:
            blocks.append(block)
            for number, length in enumerate(block.windows.ids.lengths.tolist()):
                gathered.append(_Window(block, number, length))  # type: ignore[arg-type]
                size += length
                if size >= self._group:
                    running.append(self._start(gathered))
                    gathered, size = [], 0
                    while len(running) > on_gpu:  # a GPU has a group to work on while the next is made
                        self._finish(running.popleft())
            yield from self._complete(blocks)
        if gathered:
            running.append(self._start(gathered))
        while running:
            self._finish(running.popleft())
        yield from self._complete(blocks)
        self._report()

    def _start(self, windows: list[_Window]) -> _Running:
        """Runs a group. On a GPU it waits for nothing."""
        windows = sorted(windows, key=lambda window: -window.length)
        made = []
        for batch in self._batches(windows):
            made.append(self._outputs([window.block.windows.ids[window.number] for window in batch]))
            self._report()
        outputs = torch.cat(made)
        return _Running(windows, *(copy_to_host(outputs) if outputs.is_cuda else (outputs, None)))

    def _batches(self, windows: list[_Window]) -> Iterator[list[_Window]]:
        """Consecutive windows of up to the budget's positions, padding included where there is any."""
        packed = self._classifier.model.packed
        batch: list[_Window] = []
        total = 0
        for window in windows:
            total = total + window.length if packed else (len(batch) + 1) * (batch or [window])[0].length
            if batch and total > self.budget:
                yield batch
                batch, total = [], window.length
            batch.append(window)
        if batch:
            yield batch

    def _outputs(self, ids: list[NDArray[np.int32]]) -> Tensor:
        classifier = self._classifier

        def run() -> Tensor:
            with memory_errors(classifier):
                full = classifier.model.fill(ids)
                return classifier.model.values(*pack_of(full, classifier.device))[: len(ids)]

        return run() if classifier.device.startswith("cuda") else run_in_thread(run, self._report)

    def _finish(self, group: _Running) -> None:
        """Waits for a group and notes its outputs."""
        if group.copied is not None:
            group.copied.synchronize()
        for window, output in zip(group.windows, group.outputs.tolist(), strict=True):
            window.block.outputs[window.number] = output
            window.block.left -= 1
            self.tokens += window.length
        self._report()

    def _complete(self, blocks: deque[_Block[Tag]]) -> Iterator[Values[Tag]]:
        """The values of the first blocks, as far as they are complete."""
        while blocks and not blocks[0].left:
            block = blocks.popleft()
            self.documents += block.windows.documents
            yield block.tag, block.values(self._aggregate)

    def _report(self) -> None:
        self._on_progress(self.documents, self.tokens)
