"""A pack: many independent documents laid one after the other, without padding, as one sequence of tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Table = NDArray[np.int32]
IGNORED = -100  # the target of a position that is not scored
LOG2_E = 1.4426950408889634  # kernels compute exponentials and logarithms in base 2


@dataclass(frozen=True, eq=False)
class Pack:
    """The layout of the documents of a pack.

    `lengths` [S] int64 on the host, each at least 1; `cu_seqlens` [S+1] int32 on the device, the documents' starts and
    the end of the last; `tokens` the sum of the lengths, below 2^31.
    """

    lengths: NDArray[np.int64]
    cu_seqlens: Tensor
    tokens: int
    _tables: dict[str, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int] | NDArray[np.int64], device: torch.device | str) -> Pack:
        """Lays documents of these lengths one after the other. Raises ValueError for one without a token."""
        sizes = np.asarray(lengths, dtype=np.int64).reshape(-1)
        if (sizes < 1).any():
            raise ValueError("a document of a pack has at least one token")
        tokens = int(sizes.sum())
        if tokens >= 2**31:
            raise ValueError(f"a pack of {tokens:,} tokens is too long; give fewer than 2^31 at a time")
        return cls(sizes, to_device(starts(sizes), device), tokens)

    @property
    def device(self) -> torch.device:
        """The device of the pack's tensors."""
        return self.cu_seqlens.device

    def table(self, name: str, make: Callable[[NDArray[np.int64]], Table]) -> Tensor:
        """The table that `make` computes from the lengths, on the device; computed once for each name."""
        if name not in self._tables:
            self._tables[name] = to_device(make(self.lengths), self.device)
        return self._tables[name]


def starts(lengths: NDArray[np.int64]) -> Table:
    """The documents' starts and the end of the last: [S] -> [S+1]."""
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)


def to_device(table: Table, device: torch.device | str) -> Tensor:
    """A copy on the device. To a GPU it is asynchronous, on a stream of its own: no earlier kernel delays it."""
    host = torch.from_numpy(np.ascontiguousarray(table))
    if torch.device(device).type != "cuda":
        return host.to(device)
    kernels, copies = torch.cuda.current_stream(device), _copy_stream(torch.device(device))
    with torch.cuda.stream(copies):
        copy = host.pin_memory().to(device, non_blocking=True)
    kernels.wait_stream(copies)
    copy.record_stream(kernels)
    return copy


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
