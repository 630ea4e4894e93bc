"""Runs batches through a model, on a CPU or on a GPU: inputs in, the NLL of each window out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels.pack import Pack
from scorer.causal_lm.recurrent_state import State
from scorer.causal_lm.reference import Reference
from scorer.engine.batch_loader import Batch
from scorer.engine.windows import Block

Sums = NDArray[np.float64]
Result = TypeVar("Result")

_GRAIN = 2.0**-30  # nats; sums of its multiples are exact up to 2^23 nats
_TICK_SECONDS = 0.5
_LEAVE_SECONDS = 10.0  # for a batch to end: a thread left in foreign code makes an ending process abort


def window_sums(nll: Tensor, pack: Pack) -> Tensor:
    """The sum over each document of a pack: nll [T] float32 -> [S] float64.

    Of the NLL to the nearest 2^-30 nats: such sums are exact, so it does not show in which order tokens are added, on
    which device, or from how many windows.
    """
    grains = (nll.double() / _GRAIN).round() * _GRAIN
    return torch.segment_reduce(grains, "sum", offsets=pack.cu_seqlens.long(), unsafe=True)


class Lane:
    """Runs batches one after the other, and keeps the states of documents that go on in later ones.

    On a GPU nothing is waited for until the sums are asked for: inputs travel on a stream of their own, and the host
    may be a batch ahead. Nobody is told that a batch goes on: if it hangs, others are to notice. On a CPU a batch is
    done when it is started, and `meanwhile` is called while it runs.
    """

    def __init__(self, reference: Reference, meanwhile: Callable[[], None]) -> None:
        self._model = reference.model
        self._device = reference.device
        self._meanwhile = meanwhile
        self._places: dict[tuple[Block, int], tuple[State, int]] = {}  # of a window that goes on: a state, and its row
        self.ahead = 0  # batches that may be started before the sums of one are asked for
        self._copies: Any = None
        if reference.device.startswith("cuda"):
            self.ahead = 1
            self._copies = torch.cuda.Stream(reference.device)
            # The slots may lie where work that nobody waited for, of a shard that was given up, still writes.
            self._copies.wait_stream(torch.cuda.current_stream(reference.device))

    def start(self, batch: Batch) -> Callable[[], Sums]:
        """Starts a batch; what is returned gives the sums of its windows [W] when they are there."""
        if self._copies is not None:
            return self._on_gpu(batch)
        sums = beside(lambda: self._sums(batch), self._meanwhile).numpy()
        return lambda: sums

    def tokens(self, batch: Batch) -> NDArray[np.float32]:
        """The NLL of each position of a batch [T], waited for."""
        batch.slot.device.copy_(batch.slot.host)
        nll: NDArray[np.float32] = self._nll(batch)[0].cpu().numpy()
        return nll

    def _on_gpu(self, batch: Batch) -> Callable[[], Sums]:
        size = batch.positions
        with torch.cuda.stream(self._copies):
            for host, device in zip(batch.slot.host, batch.slot.device, strict=True):
                device[:size].copy_(host[:size], non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(self._copies)
        sums = self._sums(batch)
        host = torch.empty(len(sums), dtype=sums.dtype, pin_memory=True)
        host.copy_(sums, non_blocking=True)
        there = torch.cuda.Event(blocking=True)  # whoever waits for it sleeps
        there.record()

        def ask() -> Sums:
            there.synchronize()
            return host.numpy()

        return ask

    def _sums(self, batch: Batch) -> Tensor:
        """The sums of a batch's windows [W] float64, on the device."""
        nll, pack = self._nll(batch)
        return window_sums(nll, pack)[: len(batch.windows)]

    def _nll(self, batch: Batch) -> tuple[Tensor, Pack]:
        ids, targets = batch.slot.device[:, : batch.positions]
        pack = Pack.of(batch.lengths, self._device)
        windows = batch.windows
        before = State.gather([self._places.pop((w.block, w.number)) if w.carried else None for w in windows])
        nll, after = self._model.nll(ids, targets, pack, before, keep_state=any(w.more for w in windows))
        if after is not None:
            self._places |= {(w.block, w.number): (after, i) for i, w in enumerate(windows) if w.more}
        return nll, pack


def beside(call: Callable[[], Result], meanwhile: Callable[[], None]) -> Result:
    """The result of a call that may take long, made in a thread beside; `meanwhile` is called twice a second."""
    done: list[Result] = []
    failed: list[BaseException] = []
    over = threading.Event()  # Thread.join that a signal interrupts may take a thread that runs for one that has ended

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:  # raised again by the caller's thread
            failed.append(error)
        finally:
            over.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        while not over.wait(_TICK_SECONDS):
            meanwhile()
    except BaseException:
        over.wait(_LEAVE_SECONDS)
        raise
    if failed:
        raise failed[0]
    return done[0]
