"""The SSD's two forms are the same function, with its states, groups and limits."""

import pytest
import torch
from torch import Tensor

from kernels.ssd import ssd_chunked, ssd_recurrent

HEADS, WIDTH, STATES = 6, 8, 16


def inputs(batch: int, length: int, groups: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(length * 10 + groups)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype)

    return {
        "x": randn(batch, length, HEADS, WIDTH),
        "dt": randn(batch, length, HEADS),
        "a": -torch.rand(HEADS, generator=draw, dtype=torch.float64).to(dtype) * 5,
        "b": randn(batch, length, groups, STATES),
        "c": randn(batch, length, groups, STATES),
        "d": randn(HEADS),
        "dt_bias": randn(HEADS),
        "initial_state": randn(batch, HEADS, WIDTH, STATES),
    }


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 127, 200])
def test_recurrence_and_dual_form_agree(length: int, groups: int) -> None:
    given = inputs(2, length, groups)
    for expected, found in zip(ssd_recurrent(**given), ssd_chunked(**given), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_recurrence_is_its_definition_on_scalars() -> None:
    # One head, one channel, one state, A = -1, softplus(dt) = log 2: the state halves and gains log 2 · x · b.
    half = torch.tensor(2.0, dtype=torch.float64).log()
    dt = torch.log(torch.expm1(half)).expand(1, 3, 1)
    ones = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    x = torch.tensor([1.0, 0.0, 4.0], dtype=torch.float64).view(1, 3, 1, 1)
    y, state = ssd_recurrent(x, dt, torch.tensor([-1.0], dtype=torch.float64), ones, 3 * ones)
    expected = 3 * half * torch.tensor([1.0, 0.5, 4.25], dtype=torch.float64)
    torch.testing.assert_close(y.flatten(), expected)
    torch.testing.assert_close(state.flatten(), expected[-1:] / 3)


def test_optional_inputs_default_to_nothing() -> None:
    given = inputs(2, 70, 2)
    none = dict(given, d=None, dt_bias=None, initial_state=None)
    zeros = dict(given, **{k: torch.zeros_like(given[k]) for k in ("d", "dt_bias", "initial_state")})
    for form in (ssd_recurrent, ssd_chunked):
        for a, b in zip(form(**none), form(**zeros), strict=True):
            torch.testing.assert_close(a, b)


def test_time_steps_are_clamped() -> None:
    given = inputs(1, 70, 1)
    limited = dict(given, dt_limit=(0.3, 0.5))
    fixed = dict(given, dt_bias=None, dt=torch.full_like(given["dt"], torch.expm1(torch.tensor(0.4)).log().item()))
    for form in (ssd_recurrent, ssd_chunked):
        assert not torch.allclose(form(**limited)[0], form(**given)[0])
        # Limits that leave one value make every time step that value.
        torch.testing.assert_close(form(**dict(given, dt_limit=(0.4, 0.4)))[0], form(**fixed)[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ssd_chunked(**limited)[0], ssd_recurrent(**limited)[0])


def test_a_sequence_in_pieces_is_the_sequence() -> None:
    given = inputs(2, 150, 2)
    whole, last = ssd_chunked(**given)
    state, pieces = given["initial_state"], []
    for start, stop in ((0, 1), (1, 65), (65, 150)):
        cut = {k: v[:, start:stop] if k in ("x", "dt", "b", "c") else v for k, v in given.items()}
        y, state = ssd_chunked(**dict(cut, initial_state=state))
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole)
    torch.testing.assert_close(state, last)


def test_a_document_in_a_row_forgets_what_was_before_it() -> None:
    given = inputs(2, 150, 2)
    positions = torch.cat([torch.arange(n) for n in (40, 1, 30, 79)]).expand(2, 150)
    for form in (ssd_recurrent, ssd_chunked):
        whole, last = form(**given, positions=positions)
        for start, stop in ((0, 40), (40, 41), (41, 71), (71, 150)):
            cut = {k: v[:, start:stop] if k in ("x", "dt", "b", "c") else v for k, v in given.items()}
            y, state = form(**dict(cut, initial_state=None))
            torch.testing.assert_close(whole[:, start:stop], y)
        torch.testing.assert_close(last, state)


def test_padding_on_the_right_changes_nothing_before_it() -> None:
    given = inputs(1, 100, 1, torch.float32)
    short = {k: v[:, :37] if k in ("x", "dt", "b", "c") else v for k, v in given.items()}
    torch.testing.assert_close(ssd_chunked(**given)[0][:, :37], ssd_chunked(**short)[0], rtol=1e-5, atol=1e-5)


def test_strong_decay_stays_finite() -> None:
    given = inputs(1, 130, 1, torch.float32)
    given["a"] = torch.full((HEADS,), -1e4)
    given["x"].requires_grad_()
    y, state = ssd_chunked(**given)
    y.sum().backward()
    assert y.isfinite().all()
    assert state.isfinite().all()
    assert given["x"].grad is not None
    assert given["x"].grad.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_narrower_types_are_near_the_float64_recurrence(dtype: torch.dtype, tolerance: float) -> None:
    given = inputs(2, 200, 2, dtype)
    exact, last = ssd_recurrent(**{k: v.double() for k, v in given.items()})
    y, state = ssd_chunked(**given)
    assert (y.dtype, state.dtype) == (dtype, torch.float32)
    assert (y.double() - exact).abs().max() < tolerance * exact.abs().max()
    assert (state.double() - last).abs().max() < tolerance * last.abs().max()


def test_gradients_agree() -> None:
    given = inputs(1, 70, 2)
    grads = []
    for form in (ssd_recurrent, ssd_chunked):
        leaves = {k: v.clone().requires_grad_() for k, v in given.items()}
        y, state = form(**leaves)
        (y.square().sum() + state.sum()).backward()
        grads.append({k: v.grad for k, v in leaves.items()})
    for name, expected in grads[0].items():
        torch.testing.assert_close(grads[1][name], expected, rtol=1e-8, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")
