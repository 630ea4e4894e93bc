"""The portable NLL kernels in the interpreter: against float64, any shape, rows on their own, and NaN."""

import pytest
import torch
from torch import Tensor

from kernels.nll_triton import PART, finish, partial_sums
from tests.kernels.helpers import exact_nll

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def case(rows: int, vocabulary: int, channels: int = 32, dtype: torch.dtype = torch.float32) -> Case:
    """Hidden, weight, bias, targets; every third row is not scored."""
    torch.manual_seed(rows)
    targets = torch.randint(0, vocabulary, (rows,))
    targets[2::3] = -100
    return (
        torch.randn(rows, channels).to(dtype),
        torch.randn(vocabulary, channels).to(dtype),
        torch.randn(vocabulary),
        targets,
    )


def nll(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    tops, sums = partial_sums(hidden, weight, bias, scale, softcap)
    return finish(hidden, weight, targets, bias, scale, softcap, tops, sums)


@pytest.fixture(autouse=True)
def empty_is_nan() -> None:
    """What a kernel does not write is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(2).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("rows", "vocabulary", "channels"), [(1, 1, 16), (130, 2 * PART + 52, 48), (64, PART, 80)])
def test_it_is_cross_entropy(rows: int, vocabulary: int, channels: int, dtype: torch.dtype) -> None:
    hidden, weight, _, targets = case(rows, vocabulary, channels, dtype)
    torch.testing.assert_close(
        nll(hidden, weight, targets), exact_nll(hidden, weight, targets).float(), rtol=1e-5, atol=1e-5
    )


def test_bias_scale_and_softcap() -> None:
    hidden, weight, bias, targets = case(9, 300)
    arguments = hidden, weight, targets, bias, 0.5, 3.0
    torch.testing.assert_close(nll(*arguments), exact_nll(*arguments).float(), rtol=1e-5, atol=1e-5)


def test_a_row_is_the_same_in_any_company() -> None:
    hidden, weight, _, targets = case(140, 1100)
    # Eighths, whose products have exact sums: NumPy's product, the interpreter's, adds in the order that a place has.
    hidden, weight = ((8 * m).round() / 8 for m in (hidden, weight))
    together = nll(hidden, weight, targets)
    assert torch.equal(nll(hidden[77:78], weight, targets[77:78]), together[77:78])
    assert torch.equal(nll(hidden.flip(0), weight, targets.flip(0)), together.flip(0))


def test_rows_apart_in_memory() -> None:
    hidden, weight, _, targets = case(20, 70)
    wide = torch.full((20, 100), float("nan"))
    wide[:, :32] = hidden
    assert torch.equal(nll(wide[:, :32], weight, targets), nll(hidden, weight, targets))


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.full((2, 16), 100.0)
    weight = torch.tensor([100.0, -100.0, 100.0])[:, None].expand(3, 16).contiguous()
    logits = torch.tensor([0.0, 2 * 16 * 1e4]) + torch.tensor(2.0).log()
    torch.testing.assert_close(nll(hidden, weight, torch.tensor([0, 1])), logits)


def test_a_part_that_a_bias_rules_out_adds_nothing() -> None:
    hidden, weight, bias, targets = case(5, PART + 10)
    bias[:PART] = float("-inf")
    targets = targets.clamp(min=0) % 10 + PART
    arguments = hidden, weight, targets, bias
    torch.testing.assert_close(nll(*arguments), exact_nll(*arguments).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", [-1, 50, 1 << 40])
def test_a_target_out_of_range_is_not_a_number(target: int) -> None:
    hidden, weight, _, targets = case(4, 50)
    targets[1] = target
    assert nll(hidden, weight, targets).isnan().tolist() == [False, True, False, False]


def test_not_a_number_in_a_row_stays_in_that_row() -> None:
    hidden, weight, _, targets = case(6, 50)
    hidden[3, 7] = float("nan")
    assert nll(hidden, weight, targets).isnan().tolist() == [row == 3 for row in range(6)]
