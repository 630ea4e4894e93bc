"""What a training is made of: its schedule, its batches, the steps of Muon."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kernels.pack import IGNORED
from scorer.training.batches import Batches, Layout, heldout_vectors
from scorer.training.heldout import HeldOut
from scorer.training.muon import Muon, orthogonal
from scorer.training.schedule import make_schedule

ALL = slice(None)
REFERENCE = (16, 20_000_000)


def schedule(tokens: int, distinct: int | None = None, **more: Any) -> Any:
    return make_schedule(tokens, distinct or tokens, 1024, REFERENCE, micro=16, **more)


def test_batches_grow_with_the_root_of_the_budget() -> None:
    batches = [schedule(tokens).batch for tokens in (1_000_000, 5_000_000, 20_000_000, 80_000_000, 1_280_000_000)]
    assert batches == [4, 8, 16, 32, 128]
    assert schedule(10**14).batch * 1024 == 1 << 19
    assert schedule(1_000).batch == 1
    for tokens in (1_000, 12_345_678):
        plan = schedule(tokens)
        assert (plan.steps - 1) * plan.batch * 1024 < tokens <= plan.steps * plan.batch * 1024


def test_the_rate_of_a_budget_is_the_recipes_but_for_the_rounding_of_the_batch() -> None:
    assert schedule(20_000_000).rate == pytest.approx(1)
    assert all(0.8 < schedule(tokens).rate < 1.2 for tokens in (1_000_000, 3_000_000, 40_000_000, 700_000_000))


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    plan = schedule(20_000_000)
    factors = [plan.factor(step) for step in range(plan.steps)]
    highest = [step for step, factor in enumerate(factors) if factor == plan.rate]
    assert 0.04 < highest[0] / plan.steps < 0.06
    assert 0.79 < (highest[-1] + 1) / plan.steps < 0.81
    assert 0 < factors[-1] < 0.01
    assert all(a > b for a, b in itertools.pairwise(factors[highest[-1] :]))


def test_repeats_raise_the_weight_decay() -> None:
    assert schedule(8_000_000).weight_decay == 0.1
    assert schedule(8_000_000, 2_000_000).weight_decay == pytest.approx(0.4)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_process_takes_as_many_micro_batches(processes: int) -> None:
    for tokens in (1_000, 5_000_000, 300_000_000):
        plan = schedule(tokens, processes=processes)
        assert plan.batch % (plan.micro * processes) == 0


# -- batches
DATA = np.array([0, 5, 6, 7, 0, 8, 9, 0, 3, 4, 5, 6, 7, 8, 0, 1, 2], dtype=np.uint16)


def test_a_batch_says_where_its_documents_are() -> None:
    batches = Batches(DATA, 8, 2, 0, seed=0)
    batch = batches.layout.split(batches.vector(0))
    assert sorted(batch.ids.tolist()) == sorted([DATA[:8].tolist(), DATA[8:16].tolist()])
    for ids, targets, positions in zip(batch.ids, batch.targets, batch.positions, strict=True):
        if ids[0] == 0:
            assert targets.tolist() == DATA[1:9].tolist()
            assert positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 0]
        else:
            assert targets.tolist() == DATA[9:17].tolist()
            assert positions.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    flat, ends = batch.positions.flatten(), batch.ends.flatten()
    for at, end in enumerate(ends.tolist()):
        assert end == next((i for i in range(at + 1, 16) if flat[i] == 0), 16)


def test_each_pass_reads_all_rows_once_in_another_order() -> None:
    tokens = np.arange(1, 8 * 50 + 2, dtype=np.uint16)
    batches = Batches(tokens, 8, 1, 0, seed=0)

    def row(number: int) -> int:
        return int(batches.layout.split(batches.vector(number)).ids[0, 0])

    passes = [[row(number) for number in range(first, first + 50)] for first in (0, 50)]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(1, 400, 8))
    assert passes[0] != passes[1]
    assert [row(number) for number in range(50)] == passes[0]


def test_held_out_text_is_measured_whole_and_without_the_ends_of_documents() -> None:
    layout = Layout(2, 4)
    batches = [layout.split(vector) for vector in heldout_vectors(DATA, layout, 0)]
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    assert targets[targets != IGNORED].tolist() == [token for token in DATA[1:].tolist() if token]


def test_a_sample_of_held_out_text_is_whole_documents() -> None:
    heldout = HeldOut(DATA, [10, 20, 30, 40], 0)
    assert heldout.sample(8).tokens.tolist() == DATA[:7].tolist()
    assert heldout.sample(8).sizes == [10, 20]
    assert heldout.sample(0).sizes == [10]
    assert heldout.sample(100).sizes == [10, 20, 30]


# -- Muon
@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
def test_singular_values_become_about_one(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    m = torch.randn(shape)
    values = torch.linalg.svdvals(orthogonal(m))
    assert values.min() > 0.5
    assert values.max() < 1.4
    u, _, vh = torch.linalg.svd(m, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(orthogonal(m).flatten(1), (u @ vh).flatten(1)).min() > 0.95


def test_its_steps_are_those_of_torchs_muon() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(p) for p in torch.randn(1, 24, 16).repeat(2, 1, 1))
    muon = Muon([(ours, (ALL, ALL))], weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = torch.randn(24, 16)
        theirs.grad = ours.grad.clone()
        before = ours.detach().clone()
        muon.step(0.02)
        other.step()
        step = ours.detach() - before
        assert (ours - theirs).norm() < 0.05 * step.norm()  # torch multiplies in bfloat16


def test_parts_of_a_parameter_are_matrices_of_their_own() -> None:
    torch.manual_seed(0)
    fused, first = nn.Parameter(torch.randn(8, 16)), nn.Parameter(torch.empty(8, 8))
    first.data.copy_(fused.data[:, :8])
    fused.grad = torch.randn(8, 16)
    first.grad = fused.grad[:, :8].clone()
    Muon([(fused, (ALL, slice(0, 8))), (fused, (ALL, slice(8, 16)))], 0.1).step(0.1)
    Muon([(first, (ALL, ALL))], 0.1).step(0.1)
    torch.testing.assert_close(fused.data[:, :8], first.data)
