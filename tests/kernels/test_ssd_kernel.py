"""The SSD's portable kernels in Triton's interpreter, against the float64 recurrence of each document."""

import pytest
import torch
import torch.nn.functional as F

from kernels import ssd_triton
from kernels.pack import Pack
from kernels.ssd import NO_LIMIT, ssd_recurrent
from kernels.ssd_tables import Cut

CUT = Cut(segment=128, pieces=2)  # so that documents of a few hundred tokens have several segments


@pytest.mark.parametrize(
    ("lengths", "heads", "width", "groups", "states", "silu", "dtype", "close"),
    [
        ([1, 2, 63, 64, 65, 127, 300, 128, 129], 2, 64, 1, 64, True, torch.float32, 1e-5),
        ([1, 130, 300], 4, 64, 2, 128, True, torch.float16, 3e-3),
        ([5, 200], 2, 128, 1, 32, False, torch.float32, 1e-5),
    ],
)
def test_a_pack_is_the_recurrence_of_each_document(
    lengths: list[int], heads: int, width: int, groups: int, states: int, silu: bool, dtype: torch.dtype, close: float
) -> None:
    torch.manual_seed(0)
    tokens = sum(lengths)
    x, gate = torch.randn(2, tokens, heads, width).to(dtype)
    b, c = torch.randn(2, tokens, groups, states).to(dtype)
    dt, a = torch.randn(tokens, heads).to(dtype), -torch.rand(heads) * 5
    d, bias, scale = torch.randn(heads), torch.randn(heads) - 2, torch.rand(tokens) + 0.5
    before = torch.randn(len(lengths), heads, width, states)
    pack = Pack.of(lengths, "cpu")
    made = ssd_triton.prepare(dt, a, b, c, pack, bias, NO_LIMIT, scale)
    entries = ssd_triton.shares(x, made, pack, CUT)
    ssd_triton.pass_states(entries, made, pack, before, CUT)
    outputs = ssd_triton.Outputs(
        torch.full_like(x, torch.nan), torch.full((heads, tokens), torch.nan), before * torch.nan
    )
    ssd_triton.scan(x, made, entries, pack, ssd_triton.Optional(d, gate, silu, scale, before), outputs, CUT)
    assert outputs.squares is not None
    assert outputs.final_state is not None
    start = 0
    for i, length in enumerate(lengths):
        rows = slice(start, start + length)
        wide = [m[None, rows].double() for m in (x, dt * scale[:, None])]
        y, last = ssd_recurrent(
            *wide, a.double(), b[None, rows].double(), c[None, rows].double(), d.double(), bias.double(),
            initial_state=before[i, None].double(),
        )  # fmt: skip
        z = gate[rows].double() * scale[rows, None, None]
        expected = y[0] * (F.silu(z) if silu else z)
        for found, wanted in (
            (outputs.y[rows], expected),
            (outputs.final_state[i], last[0]),
            (outputs.squares[:, rows], expected.square().sum(2).T),
        ):
            assert (found.double() - wanted).norm() < close * wanted.norm()
        start += length
