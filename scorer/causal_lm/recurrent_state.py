"""The state of a recurrent model between two parts of a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class State:
    """For B documents and each layer: the convolution's last inputs [B, K-1, C] and the SSD's state [B, H, P, N]."""

    conv: list[Tensor]
    ssd: list[Tensor]

    @staticmethod
    def gather(rows: Sequence[tuple[State, int] | None]) -> State | None:
        """The state of B documents: of each a row of another state, or zero if it begins. None if all begin."""
        carried = [source for source in rows if source is not None]
        if not carried:
            return None
        first, _ = carried[0]
        if len(carried) == len(rows) == len(first.ssd[0]) and all(
            state is first and row == i for i, (state, row) in enumerate(carried)
        ):
            return first  # the same rows in the same order: nothing to copy

        def stack(layers_of: Callable[[State], list[Tensor]]) -> list[Tensor]:
            return [
                torch.stack([torch.zeros_like(layer[0]) if r is None else layers_of(r[0])[i][r[1]] for r in rows])
                for i, layer in enumerate(layers_of(first))
            ]

        return State(stack(lambda state: state.conv), stack(lambda state: state.ssd))
