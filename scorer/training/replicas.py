"""Data parallelism: processes that train the same model on different micro-batches, by torch.distributed.

The caller's process is the first of them. The others end when it does.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from scorer.errors import BadReference

_JOIN_SECONDS = 10.0


class Replicas:
    """The processes of a training, as one of them sees them; `count` of 1 is a training without others."""

    def __init__(self, rank: int, count: int, others: Sequence[BaseProcess]) -> None:
        self.rank, self.count = rank, count
        self._others = others

    def sum(self, tensors: list[Tensor]) -> None:
        """Adds up each tensor over the processes; all get the same bits."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def meet(self) -> None:
        """Waits until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def check(self) -> None:
        """Raises BadReference if another process has ended before its time."""
        if any(process.exitcode for process in self._others):
            raise BadReference("a process of the training on several GPUs has died; see its message above")


@contextmanager
def replicas(
    count: int, device: str, folder: Path, work: Callable[[Any, Replicas], None], job: Any
) -> Iterator[Replicas]:
    """Starts `work(job, replicas)` in `count` - 1 further processes; job and work can be pickled.

    Processes meet by a file in `folder`. When the block ends they have ended, or are ended if it raises.
    """
    if count == 1:
        yield Replicas(0, 1, [])
        return
    meeting = folder / f"rendezvous-{os.getpid()}"
    meeting.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    others = [
        context.Process(target=_other, args=(rank, count, device, meeting, work, job), daemon=True)
        for rank in range(1, count)
    ]
    for process in others:
        process.start()
    try:
        with _group(0, count, device, meeting):
            try:
                yield Replicas(0, count, others)
            except BaseException:
                _end(others)  # first, as leaving the group would wait for them
                raise
        for process in others:
            process.join(_JOIN_SECONDS)
    finally:
        _end(others)
        meeting.unlink(missing_ok=True)


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


@contextmanager
def _group(rank: int, count: int, device: str, meeting: Path) -> Iterator[None]:
    """Joins the group of processes; on GPUs each has the one of its rank."""
    on_gpu = device.startswith("cuda")
    place = torch.device("cuda", rank) if on_gpu else None
    if place is not None:
        torch.cuda.set_device(place)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", f"file://{meeting}", rank=rank, world_size=count, device_id=place
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _other(rank: int, count: int, device: str, meeting: Path, work: Callable[[Any, Replicas], None], job: Any) -> None:
    """The life of a further process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    with _group(rank, count, device, meeting):
        work(job, Replicas(rank, count, []))


def _end_with(sentinel: int) -> None:
    """Ends this process when the first one has ended, even if it was killed."""
    wait([sentinel])
    os._exit(1)
