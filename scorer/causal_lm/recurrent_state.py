"""Where sequences stand that a recurrent model goes on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class State:
    """For each layer the convolution's last inputs [B, K-1, C] and the SSD's state [B, H, P, N] of B sequences."""

    conv: list[Tensor]
    ssd: list[Tensor]

    @staticmethod
    def gather(places: Sequence[tuple[State, int] | None]) -> State | None:
        """Of B sequences, each at a row of some state, or None where it has not begun. None if none has."""
        begun = [place for place in places if place is not None]
        if not begun:
            return None
        first, _ = begun[0]
        if len(begun) == len(places) == len(first.ssd[0]) and all(
            state is first and row == i for i, (state, row) in enumerate(begun)
        ):
            return first

        def together(of: Callable[[State], list[Tensor]]) -> list[Tensor]:
            return [
                torch.stack([torch.zeros_like(layer[0]) if p is None else of(p[0])[i][p[1]] for p in places])
                for i, layer in enumerate(of(first))
            ]

        return State(together(lambda state: state.conv), together(lambda state: state.ssd))
