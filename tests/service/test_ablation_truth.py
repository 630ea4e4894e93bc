"""Selections that are random halves of a corpus hardly ever win an ablation: `make ablation-truth`, some minutes."""

import json
import os
from pathlib import Path

import pytest

from service.contract.schemas import JobRequest
from service.work import local
from tests.service.test_ablations import run, write_planted
from tests.service.test_prune import nothing

PAIRS = 20


@pytest.mark.skipif(not os.environ.get("WINNOW_TEST_LONG"), reason="trains 66 proxies: make ablation-truth")
def test_of_twenty_random_halves_at_most_two_win(reference: Path, tmp_path: Path) -> None:
    planted = write_planted(tmp_path / "corpus")
    selections = [{"criterion": "random", "rate": 0.5, "seed": seed} for seed in range(1, PAIRS + 1)]
    request = JobRequest.model_validate(
        {
            "corpus": {"paths": [str(planted / "corpus.jsonl")]},
            "reference": {"model": str(reference)},
            "selections": selections,
        }
    )
    local.prune(request, tmp_path / "pruned", "cpu", nothing)
    chosen = [word for seed in range(1, PAIRS + 1) for word in ("--selection", f"random-0.5-seed{seed}")]
    held = ["--heldout", f"clean={planted / 'held.jsonl'}"]
    assert run(tmp_path / "pruned", *chosen, *held, "--tokens", 20_000, "--out", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    arms = [arm for arm in found["arms"] if arm["random"] is not None]
    assert len(arms) == PAIRS
    wins = [arm for arm in arms if arm["difference"]["high"] < 0 and arm["against_random"]["high"] < 0]
    assert len(wins) <= 2
    assert found["recommendation"]["selection"] is None
