"""The SSD's gradients in Triton's interpreter, against torch's own of the float64 form of each document."""

import pytest
import torch

from kernels import ssd_backward_triton
from kernels.pack import Pack
from kernels.ssd_backward import packed_ssd_backward, packed_ssd_backward_reference, with_kernels
from tests.kernels.helpers import relative

NO_LIMIT = (0.0, float("inf"))


@pytest.mark.parametrize(
    ("lengths", "heads", "groups", "states", "limit", "optional"),
    [
        ([1, 2, 63, 64, 65, 127, 300, 1], 2, 1, 64, NO_LIMIT, True),
        ([5, 200], 4, 2, 16, (0.05, 0.5), False),
        ([130, 1], 3, 1, 128, NO_LIMIT, True),
    ],
)
def test_a_pack_has_the_gradients_of_each_document(
    lengths: list[int], heads: int, groups: int, states: int, limit: tuple[float, float], optional: bool
) -> None:
    torch.manual_seed(0)
    tokens = sum(lengths)
    x, grad = torch.randn(2, tokens, heads, 64)
    b, c = torch.randn(2, tokens, groups, states)
    dt, a = torch.randn(tokens, heads), -torch.rand(heads) * 5
    d, bias = (torch.randn(heads), torch.randn(heads) - 2) if optional else (None, None)
    before = torch.randn(len(lengths), heads, 64, states) if optional else None
    pack = Pack.of(lengths, "cpu")
    grad_dt = torch.full_like(dt, torch.nan)
    found = with_kernels(
        ssd_backward_triton.within_chunks, grad, x, dt, a, b, c, pack, d, bias, limit, initial_state=before,
        positions=None, kept=None, grad_dt=grad_dt,
    )  # fmt: skip
    wide = [None if m is None else m.double() for m in (grad, x, dt, a, b, c)]
    more = [None if m is None else m.double() for m in (d, bias)]
    expected = packed_ssd_backward_reference(
        *wide, pack, *more, limit, initial_state=None if before is None else before.double()
    )
    assert found.dt.data_ptr() == grad_dt.data_ptr()
    for name, exact in expected._asdict().items():
        value = getattr(found, name)
        assert (value is None) == (exact is None)
        assert value is None or relative(value, exact) < 1e-4, name
    for part, exact in zip(found.rows.split(lengths), expected.rows.split(lengths), strict=True):
        assert relative(part, exact) < 1e-5


def test_rows_of_several_documents_have_the_gradients_of_each() -> None:
    torch.manual_seed(0)
    documents = [1, 63, 64, 22, 2, 70, 1, 1, 76]
    positions = torch.cat([torch.arange(n) for n in documents])
    x, grad = torch.randn(2, 300, 2, 64)
    b, c = torch.randn(2, 300, 1, 32)
    dt, a, d, bias = torch.randn(300, 2), -torch.rand(2) * 5, torch.randn(2), torch.randn(2) - 2
    rows = Pack.of([150, 150], "cpu")
    found = with_kernels(
        ssd_backward_triton.within_chunks, grad, x, dt, a, b, c, rows, d, bias, NO_LIMIT, initial_state=None,
        positions=positions, kept=None, grad_dt=None,
    )  # fmt: skip
    on_a_cpu = packed_ssd_backward(grad, x, dt, a, b, c, rows, d, bias, positions=positions)
    wide = [m.double() for m in (grad, x, dt, a, b, c)]
    exact = packed_ssd_backward_reference(*wide, Pack.of(documents, "cpu"), d.double(), bias.double())
    for name in ("rows", "dt", "a", "d", "dt_bias"):
        assert relative(getattr(found, name), getattr(exact, name)) < 1e-4, name
        assert relative(getattr(on_a_cpu, name), getattr(exact, name)) < 1e-4, name


def test_on_a_cpu_the_reference_runs_and_writes_where_it_is_told() -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(2, 9, 2, 4)
    b, c = torch.randn(2, 9, 1, 16)
    dt, a, into = torch.randn(9, 2), -torch.rand(2), torch.empty(9, 5)[:, 1:3]
    pack = Pack.of([4, 5], "cpu")
    found = packed_ssd_backward(grad, x, dt, a, b, c, pack, grad_dt=into)
    assert found.dt.data_ptr() == into.data_ptr()
    expected = packed_ssd_backward_reference(grad, x, dt, a, b, c, pack)
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(into, expected.dt)
    assert torch.equal(found.x.flatten(1), found.rows[:, :8])
