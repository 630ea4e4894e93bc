"""The token budget of a batch."""

import pytest

from scorer.causal_lm.budget import halved, token_budget


@pytest.mark.parametrize("parameters", [1, 4_000_000, 130_000_000, 7_000_000_000])
def test_a_cpu_batch_is_smaller_than_a_gpu_one_and_never_empty(parameters: int) -> None:
    assert 1 < token_budget(False, parameters, False) < token_budget(True, parameters, False)


def test_a_budget_is_halved_until_that_would_not_help() -> None:
    budget, seen = token_budget(True, 1, True), []
    while budget is not None:
        seen.append(budget)
        budget = halved(budget)
    assert seen == [1 << i for i in range(17, 9, -1)]
