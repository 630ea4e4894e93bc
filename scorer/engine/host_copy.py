"""Copies from a GPU to the host that wait for nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to_host(values: Tensor) -> tuple[Tensor, torch.cuda.Event]:
    """Starts to copy a tensor of a GPU to pinned memory: the copy, and the event after which it is complete.

    Asked for later, a copy would wait for all that the stream was given meanwhile.
    """
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # a thread that waits for it sleeps and does not spin
    copied.record()
    return host, copied
