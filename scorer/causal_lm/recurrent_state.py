"""The state of a recurrent model between two parts of a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class State:
    """For B documents the positions read so far, and by layer the convolution's last inputs and the mixer's state.

    The inputs are [B, K-1, C]. The mixer's state is that of the SSD [B, H, P, N], or what attention carries, the keys
    and values of the last positions (`hybrid.Span`).
    """

    read: list[int]
    conv: list[Tensor]
    mixer: list[Tensor]

    @staticmethod
    def after(before: State | None, lengths: Sequence[int]) -> State:
        """That of documents with so many positions more than `before`, still without layers."""
        read = [0] * len(lengths) if before is None else before.read
        return State([sum(counts) for counts in zip(read, lengths, strict=True)], [], [])

    @staticmethod
    def gather(rows: Sequence[tuple[State, int] | None]) -> State | None:
        """The state of B documents: of each a row of another state, or zero if it begins. None if all begin."""
        carried = [source for source in rows if source is not None]
        if not carried:
            return None
        first, _ = carried[0]
        if len(carried) == len(rows) == len(first.read) and all(
            state is first and row == i for i, (state, row) in enumerate(carried)
        ):
            return first  # the same rows in the same order: nothing to copy

        def stack(layers_of: Callable[[State], list[Tensor]]) -> list[Tensor]:
            return [
                torch.stack([torch.zeros_like(layer[0]) if r is None else layers_of(r[0])[i][r[1]] for r in rows])
                for i, layer in enumerate(layers_of(first))
            ]

        read = [0 if r is None else r[0].read[r[1]] for r in rows]
        return State(read, stack(lambda state: state.conv), stack(lambda state: state.mixer))
