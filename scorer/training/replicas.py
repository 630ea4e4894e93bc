"""Data parallelism: processes that train the same model on different micro-batches, by torch.distributed.

The caller's process is the first of them. The others end when it does. On GPUs each sees one of them alone.
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

from scorer.errors import ProcessDied

_JOIN_SECONDS = 10.0


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named is not None else [str(number) for number in range(count)]


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
        """Raises ProcessDied if another process has ended before its time."""
        if any(process.exitcode for process in self._others):
            raise ProcessDied("a process of the training on several GPUs has died; see its message above")


@contextmanager
def replicas(
    count: int, device: str, folder: Path, work: Callable[[Any, Replicas], None], job: Any, gpus: Sequence[str] = ()
) -> Iterator[Replicas]:
    """Starts `work(job, replicas)` in `count` - 1 further processes; job and work can be pickled.

    `gpus` are those of the further processes, if there are any, as CUDA_VISIBLE_DEVICES names them. Processes meet by a
    file in `folder`. When the block ends they have ended, or are ended if it raises.
    """
    if count == 1:
        yield Replicas(0, 1, [])
        return
    meeting = folder / f"rendezvous-{os.getpid()}"
    meeting.unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
    others = [
        context.Process(target=_other, args=(rank, count, device, gpu, meeting, work, job), daemon=True)
        for rank, gpu in zip(range(1, count), gpus or [""] * (count - 1), strict=True)
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
    """Joins the group of processes."""
    on_gpu = device.startswith("cuda")
    place = torch.device("cuda", torch.cuda.current_device()) if on_gpu else None
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", f"file://{meeting}", rank=rank, world_size=count, device_id=place
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _other(
    rank: int, count: int, device: str, gpu: str, meeting: Path, work: Callable[[Any, Replicas], None], job: Any
) -> None:
    """The life of a further process."""
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # torch reads it at its first use of a GPU
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    with _group(rank, count, device, meeting):
        work(job, Replicas(rank, count, []))


def _end_with(sentinel: int) -> None:
    """Ends this process when the first one has ended, even if it was killed."""
    wait([sentinel])
    os._exit(1)
