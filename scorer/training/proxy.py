"""Trains a proxy on prepared tokens and measures it after a quarter, half and all of its steps; a killed run goes on.

At each of these points a branch decays the learning rate, so that the points are ends of shorter runs, and comparable.
The same tokens and settings give the same numbers on one kind of device, killed or not, whatever else runs beside it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scorer.training.batches import Layout
from scorer.training.checkpoint import Checkpoint
from scorer.training.evaluation import EvaluationRows, Text
from scorer.training.loop import Job, Training
from scorer.training.names import OptimizerName, Preset
from scorer.training.presets import RECIPES
from scorer.training.replicas import Replicas
from scorer.training.schedule import Schedule, make_schedule

_SAVE_SECONDS = 20.0  # between two checkpoints, at least, and 20 times what writing one takes
_TELL_SECONDS = 0.2  # between two reports of progress
_EVALUATED_ROWS = 8  # at a time on a CPU


@dataclass(frozen=True)
class ProxySpec:
    """What all runs of an ablation have in common, and the seed and the rate of one."""

    preset: Preset
    optimizer: OptimizerName | None  # None: the preset's own
    tokens: int  # to read
    distinct: int  # tokens of the largest arm: the weight decay, the same for all arms, grows with its passes
    rows: int  # of the vocabulary
    start: int  # the token before a document
    seed: int
    factor: float = 1.0  # of the learning rate


@dataclass(frozen=True)
class Point:
    """A branch that has ended: tokens read until then, and the NLL of each text in nats, float64 [texts]."""

    tokens: int
    nll: NDArray[np.float64]


def schedule_of(spec: ProxySpec, device: str) -> Schedule:
    """The schedule of a run."""
    recipe = RECIPES[spec.preset]
    micro = recipe.micro_gpu if device.startswith("cuda") else recipe.micro_cpu
    made = make_schedule(
        spec.tokens, min(spec.distinct, spec.tokens), recipe.sequence, (recipe.batch, recipe.budget), micro
    )
    return replace(made, rate=made.rate * spec.factor)


def parameters(preset: Preset) -> int:
    """The parameters of a preset with a full vocabulary."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return sum(p.numel() for p in RECIPES[preset].build(RECIPES[preset].vocabulary).module.parameters())


def train_proxy(
    spec: ProxySpec,
    texts: Sequence[Text],
    shares: Sequence[float],
    work: Path,
    device: str,
    on_progress: Callable[[int], None],
) -> list[Point]:
    """Trains on the tokens in `work/tokens.bin`, uint16, and measures the texts after each of `shares` of the steps.

    `shares` ascend, and the last is 1. `work` keeps what a resumed call needs; the caller removes it. `on_progress` is
    called with the steps taken, of `steps_of`, now and then, and may raise to end the run. Raises
    BadReference if the loss becomes infinite or NaN.
    """
    threads = torch.get_num_threads()
    with _threads(1 if device == "cpu" else threads):
        return _Run(spec, texts, shares, work, device, on_progress, threads).run()


def steps_of(schedule: Schedule, shares: Sequence[float]) -> int:
    """The steps of a run with its branches."""
    ends = _ends(schedule, shares)
    return ends[-1] + sum(schedule.decay(end) for end in ends[:-1])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """On a CPU a run takes one thread: small models run faster side by side, and their bits do not depend on cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ends(schedule: Schedule, shares: Sequence[float]) -> list[int]:
    return [max(1, round(share * schedule.steps)) for share in shares]


class _Run:
    """A run and its branches, in the order of their ends."""

    def __init__(
        self,
        spec: ProxySpec,
        texts: Sequence[Text],
        shares: Sequence[float],
        work: Path,
        device: str,
        on_progress: Callable[[int], None],
        threads: int,
    ) -> None:
        """`threads`: the number for other work, which runs while progress is reported."""
        self._schedule = schedule_of(spec, device)
        self._ends = _ends(self._schedule, shares)
        self._begins = [0, *(end - self._schedule.decay(end) for end in self._ends[:-1])]
        self._device, self._on_progress = device, on_progress
        recipe = RECIPES[spec.preset]
        self._settings: dict[str, Any] = spec.__dict__ | self._schedule.__dict__
        name_of_state = hashlib.sha256(json.dumps(self._settings).encode()).hexdigest()[:16]
        self._state = work / name_of_state  # an earlier version may have left a run with other settings
        self._state.mkdir(exist_ok=True)
        name = spec.optimizer or recipe.optimizer
        job = Job(recipe, name, self._schedule, spec.seed, spec.rows, spec.start, work, self._settings, device)
        self._training = Training(job, Replicas(0, 1, []))
        rows = recipe.micro_gpu if device.startswith("cuda") else _EVALUATED_ROWS
        self._rows = EvaluationRows(texts, Layout(rows, recipe.sequence), spec.start)
        self._taken, self._told, self._threads = 0, 0.0, threads

    def run(self) -> list[Point]:
        """All branches that are left."""
        points = []
        for number, end in enumerate(self._ends):
            measured = self._state / f"measured-{number}.npy"
            if not measured.exists():
                self._run_branch(number, end)
                nll = self._rows.nll(self._training.model, self._device, self._beat)
                partial = measured.with_suffix(".part.npy")
                np.save(partial, nll)
                partial.replace(measured)
            points.append(Point(self._tokens(end), np.load(measured)))
        return points

    def _run_branch(self, number: int, end: int) -> None:
        """From the last checkpoint, or from where the branch before left the run."""
        training, begin = self._training, self._begins[number]
        leaves = self._begins[number + 1] if number + 1 < len(self._ends) else None
        before = sum(last - first for first, last in zip(self._begins[:number], self._ends[:number], strict=True))
        running = self._checkpoint("checkpoint", number)
        first = self._restore(running)
        if first is None:
            first = self._restore(self._checkpoint(f"branch-{number - 1}", number - 1)) if number else 0
        if first is None:
            raise FileNotFoundError(f"{self._state}: the state of the run is gone; remove the folder")
        saved, took = time.monotonic(), 0.0
        for step in range(first, end):
            if step == leaves:
                self._store(self._checkpoint(f"branch-{number}", number), step)
            training.step(step, self._schedule.factor(step, end), lambda *_: self._beat())
            self._taken = before + step + 1 - begin
            begun = time.monotonic()
            if begun - saved > max(_SAVE_SECONDS, 20 * took) and step + 1 < end:
                self._store(running, step + 1)
                saved = time.monotonic()
                took = saved - begun
        training.drain()

    def _store(self, checkpoint: Checkpoint, step: int) -> None:
        self._training.drain()  # a loss that is not finite is found before it is stored
        checkpoint.store(self._training.model.module, self._training.optimizer, {"step": step})

    def _checkpoint(self, name: str, branch: int) -> Checkpoint:
        return Checkpoint(self._state / f"{name}.safetensors", self._settings | {"branch": branch})

    def _restore(self, checkpoint: Checkpoint) -> int | None:
        found = checkpoint.restore(self._training.model.module, self._training.optimizer)
        return None if found is None else int(found["step"])

    def _tokens(self, end: int) -> int:
        return min(self._schedule.tokens, end * self._schedule.batch * self._schedule.sequence)

    def _beat(self) -> None:
        """Tells the progress now and then: other work may run meanwhile, with its own number of threads."""
        if time.monotonic() - self._told >= _TELL_SECONDS:
            with _threads(self._threads):
                self._on_progress(self._taken)
            self._told = time.monotonic()
