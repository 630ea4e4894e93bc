"""Matrices of 8-bit numbers (e4m3) with a float32 factor for each row, as products and the NLL head take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
SMALLEST = 1e-30  # of a row's largest magnitude; a row of zeros stays one


class Fp8Rows(NamedTuple):
    """A matrix [n_rows, K] as `values` [R, C] e4m3 times `scale` [R] float32; rows and columns past it are zeros."""

    values: Tensor
    scale: Tensor
    n_rows: int

    def dequantize(self) -> Tensor:
        """[n_rows, C] float32."""
        return (self.values.float() * self.scale[:, None])[: self.n_rows]


def parts(matrix: Tensor | Fp8Rows) -> tuple[Tensor, Tensor | None, int]:
    """Its numbers, the factors of its rows or None, and the number of its rows without those filled up."""
    return matrix if isinstance(matrix, Fp8Rows) else (matrix, None, len(matrix))


class Fp8Head(NamedTuple):
    """An output matrix [V, D]: as it is, and less the `mean` [D] float32 of its rows in e4m3; zero if not `centred`."""

    weight: Tensor
    mean: Tensor
    rows: Fp8Rows
    centred: bool
