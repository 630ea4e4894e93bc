"""Numbers of a device on their way to the host, so that no micro-batch waits for the one before it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from scorer.engine.host_copy import copy_to_host

_POLL_SECONDS = 0.0005


class Readback:
    """Hands scalars over in their order, some time after they are computed. On a CPU that is at once."""

    def __init__(self, check: Callable[[], None]) -> None:
        """`check` is called while waiting, and may raise."""
        self._check = check
        self._waiting: deque[tuple[Tensor, torch.cuda.Event | None, Callable[[float], None]]] = deque()

    def add(self, value: Tensor, then: Callable[[float], None]) -> None:
        """`then` will be called with the value that the scalar has now."""
        if value.is_cuda:
            self._waiting.append((*copy_to_host(value), then))
        else:
            self._waiting.append((value.clone(), None, then))

    def drain(self, ahead: int = 0) -> None:
        """Waits until all but the last `ahead` scalars are handed over; those of a CPU all are."""
        while self._waiting and (len(self._waiting) > ahead or self._waiting[0][1] is None):
            host, event, then = self._waiting.popleft()
            while event is not None and not event.query():
                self._check()
                time.sleep(_POLL_SECONDS)
            then(host.item())
