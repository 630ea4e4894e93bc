"""Rotary positions by complex numbers, and what they are for: scores that depend on distances alone."""

import cmath

import pytest
import torch

from kernels.rotary import rotary_angles, rotate


@pytest.mark.parametrize("interleaved", [False, True])
def test_pairs_are_turned_as_complex_numbers(interleaved: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2, 7)
    at = [0, 5, 12_345_678]
    turned = x.clone()
    rotate(turned[:, :1], *rotary_angles(torch.tensor(at), 6, 500.0), interleaved)
    assert torch.equal(turned[:, 1], x[:, 1])
    assert torch.equal(turned[..., 6], x[..., 6])
    for row, t in enumerate(at):
        for i in range(3):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + 3)
            z = complex(x[row, 0, a], x[row, 0, b]) * cmath.rect(1, t * 500.0 ** (-i / 3))
            assert complex(turned[row, 0, a], turned[row, 0, b]) == pytest.approx(z, abs=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_keeps_lengths_and_sees_distances_alone(interleaved: bool) -> None:
    q, k = torch.randn(2, 1, 1, 16, generator=torch.Generator().manual_seed(0)).repeat(1, 9, 1, 1)
    lengths = q.norm(dim=2)
    angles = rotary_angles(torch.arange(9) + 1_000_000, 8, 100.0)
    for m in (q, k):
        rotate(m, *angles, interleaved)
    torch.testing.assert_close(q.norm(dim=2), lengths)
    scores = q[:, 0] @ k[:, 0].T
    for distance in range(9):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(5, 2, 8)}, r"got \[5, 2, 8\], \[4, 2\]"),
        ({"x": torch.zeros(4, 2, 3)}, "4 channels cannot be rotated in heads of 3"),
        ({"x": torch.zeros(4, 2, 8, dtype=torch.float64)}, "float64"),
        ({"x": torch.zeros(4, 8, 2).mT}, "contiguous"),
    ],
)
def test_what_is_unsupported_is_named(change: dict[str, torch.Tensor], message: str) -> None:
    cos, sin = rotary_angles(torch.arange(4), 4, 10.0)
    with pytest.raises(ValueError, match=message):
        rotate(**{"x": torch.zeros(4, 2, 8), "cos": cos, "sin": sin, **change})
