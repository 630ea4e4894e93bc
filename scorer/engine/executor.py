"""Runs batches through a model on a CPU or a GPU: token ids in, the NLL of each window out."""

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
from scorer.causal_lm.reference import Reference, memory_errors
from scorer.engine.batch_loader import Batch
from scorer.engine.host_copy import copy_to_host
from scorer.engine.windows import HIGH, TokenizedBlock

Sums = NDArray[np.float64]  # [W, 4]: of each window the NLL, the squares, the largest NLL, and the tokens over HIGH
Result = TypeVar("Result")

_GRAIN = 2.0**-30  # nats; sums of its multiples are exact up to 2^23 nats
_SQUARE_GRAIN = 2.0**-20  # nats squared; exact up to 2^33
_WAIT_SECONDS = 0.5  # between two calls of `while_running`
_CLOSE_SECONDS = 10.0  # for a running batch to end: a thread left in torch may abort the process at exit


def window_sums(nll: Tensor, pack: Pack) -> Tensor:
    """The sum over each document of a pack: nll [T] float32 -> [S] float64.

    The NLL of a token is rounded to a multiple of 2^-30 nats. Sums of these are exact: they do not depend on the order
    of adding, the device or the number of windows.
    """
    grains = (nll.double() / _GRAIN).round() * _GRAIN
    return torch.segment_reduce(grains, "sum", offsets=pack.cu_seqlens.long(), unsafe=True)


def window_statistics(nll: Tensor, pack: Pack) -> Tensor:
    """`window_sums`, the sum of squares, the largest NLL and the number over HIGH of each document: [T] -> [S, 4]."""
    offsets = pack.cu_seqlens.long()
    squares = (nll.double().square() / _SQUARE_GRAIN).round() * _SQUARE_GRAIN
    return torch.stack(
        [
            window_sums(nll, pack),
            torch.segment_reduce(squares, "sum", offsets=offsets, unsafe=True),
            torch.segment_reduce(nll.double(), "max", offsets=offsets, unsafe=True),
            torch.segment_reduce((nll > HIGH).double(), "sum", offsets=offsets, unsafe=True),
        ],
        dim=1,
    )


class Executor:
    """Runs the batches of one scoring in order, and keeps the states of documents that continue in later batches.

    On a GPU `submit` waits for nothing: inputs are copied on a stream of their own, and the host may be a batch ahead.
    On a CPU the batch is done when `submit` returns.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._device = reference.device
        # For a window that another part continues: the state after it, and its row there.
        self._states: dict[tuple[TokenizedBlock, int], tuple[State, int]] = {}
        self.batches_ahead = 0  # batches to submit before the sums of the oldest are asked for
        self._copy_stream: Any = None
        if reference.device.startswith("cuda"):
            self.batches_ahead = 1
            self._copy_stream = torch.cuda.Stream(reference.device)
            # The buffers' memory may still be used by kernels of an earlier scoring that was given up.
            self._copy_stream.wait_stream(torch.cuda.current_stream(reference.device))

    def submit(self, batch: Batch, while_running: Callable[[], None]) -> Callable[[], Sums]:
        """Starts a batch. The function returned waits for it and gives the sums of its windows, [W, 4] float64.

        On a CPU the model runs in another thread, and `while_running` is called twice a second in this one. On a GPU it
        is not called: nothing shall report progress for a GPU that hangs. Raises OutOfMemory.
        """
        if self._copy_stream is not None:
            return self._submit_to_gpu(batch)
        sums = run_in_thread(lambda: self._sums(batch), while_running).numpy()
        return lambda: sums

    def position_nll(self, batch: Batch) -> NDArray[np.float32]:
        """Runs a batch and waits: the NLL of each position [T], 0 where nothing is scored. Raises OutOfMemory."""
        batch.buffer.device.copy_(batch.buffer.host)
        with memory_errors(self._reference):
            nll: NDArray[np.float32] = self._nll(batch)[0].cpu().numpy()
        return nll

    def _submit_to_gpu(self, batch: Batch) -> Callable[[], Sums]:
        size = batch.positions
        with torch.cuda.stream(self._copy_stream):
            for host, device in zip(batch.buffer.host, batch.buffer.device, strict=True):
                device[:size].copy_(host[:size], non_blocking=True)
        torch.cuda.current_stream(self._device).wait_stream(self._copy_stream)
        host, copied = copy_to_host(self._sums(batch))

        def wait_for_sums() -> Sums:
            copied.synchronize()
            return host.numpy()

        return wait_for_sums

    def _sums(self, batch: Batch) -> Tensor:
        """The sums of a batch's windows [W, 4] float64, on the device."""
        with memory_errors(self._reference):
            nll, pack = self._nll(batch)
            return window_statistics(nll, pack)[: len(batch.windows)]

    def _nll(self, batch: Batch) -> tuple[Tensor, Pack]:
        ids, targets = batch.buffer.device[:, : batch.positions]
        pack = Pack.of(batch.lengths, self._device)
        windows = batch.windows
        before = State.gather([self._states.pop((w.block, w.number)) if w.carried else None for w in windows])
        nll, after = self._reference.model.nll(ids, targets, pack, before, keep_state=any(w.more for w in windows))
        if after is not None:
            self._states |= {(w.block, w.number): (after, i) for i, w in enumerate(windows) if w.more}
        return nll, pack


def run_in_thread(call: Callable[[], Result], while_running: Callable[[], None]) -> Result:
    """The result of a call that runs in a thread of its own; `while_running` is called here twice a second."""
    results: list[Result] = []
    errors: list[BaseException] = []
    ended = threading.Event()  # not Thread.join: interrupted by a signal, it may take a running thread for an ended one

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again below
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="executor", daemon=True).start()
    try:
        while not ended.wait(_WAIT_SECONDS):
            while_running()
    except BaseException:
        ended.wait(_CLOSE_SECONDS)
        raise
    if errors:
        raise errors[0]
    return results[0]
