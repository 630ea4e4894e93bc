"""Compares the arms of an ablation: measures, paired differences, noise, curves. Knows no model and no corpus."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from pruner.ablation.result import ArmResult, CurvePoint, Interval, MeasureName, Noise, RateCheck, TaskScore
from pruner.ablation.statistics import (
    NO_NOISE,
    Difference,
    Measure,
    RunNoise,
    detectable,
    drawn_share,
    paired_difference,
    run_noise,
    steps_to_baseline,
)

ALL = "all"  # the arm of all documents, and in `heldout` the measure in all
AGAIN = "all-again"  # the arm of all documents in another order
SHARES = (0.25, 0.5, 1.0)  # of the steps after which a branch of a run has decayed and is measured


@dataclass(frozen=True)
class Arm:
    """An arm. `drawn` ones choose other documents for each seed; a selection keeps the same ones."""

    name: str
    role: Literal["all", "again", "random", "selection"]
    documents: int
    rate: float  # documents / those of `all`
    control: str | None = None  # of a selection: the arm of as many random documents


@dataclass(frozen=True)
class Items:
    """What is measured. `name` [items] is the domain of a held-out document, or the task of a question."""

    name: Sequence[str]
    is_task: np.ndarray  # bool [items]
    n_bytes: np.ndarray  # float64 [items]: of the document, or of the right answer
    choices: np.ndarray  # int64 [items]: 0 for documents
    named: np.ndarray  # bool [items]: a held-out document of a file that the user named

    def measure(self, which: MeasureName) -> tuple[Measure, np.ndarray]:
        """The measure, and which items it is of, bool [items].

        Held-out files that the user names say what the models are for; without them it is all held-out text.
        """
        if which == "tasks":
            here = self.is_task
            names = sorted({name for name, task in zip(self.name, here, strict=True) if task})
            group = np.array([names.index(name) for name, task in zip(self.name, here, strict=True) if task])
            return Measure(group, np.ones(len(group))), here
        here = self.named if self.named.any() else ~self.is_task
        return Measure(np.zeros(int(here.sum()), int), self.n_bytes[here]), here

    def losses(self, bits: np.ndarray, which: MeasureName) -> np.ndarray:
        """What the measure sums up: bits [..., items], or bits per byte of the right answers."""
        return bits / self.n_bytes if which == "tasks" else bits


class RunKey(NamedTuple):
    """A run: an arm, a seed, and the factor of the preset's learning rate."""

    arm: str
    seed: int
    factor: float = 1.0


@dataclass(frozen=True)
class Run:
    """What a run gave. Row k of `bits` and `correct` is after SHARES[k] of the steps."""

    bits: np.ndarray  # float64 [3, items]: NLL of the document or the right answer
    correct: np.ndarray  # bool [3, items]: whether the right answer is the likeliest; False for documents
    tokens: tuple[int, ...]  # [3], read until then
    bytes_seen: int
    passes: float
    seconds: float = 0.0


class MeasureRow(NamedTuple):
    """A measure of a run: of a domain, of a task, or `all` of the held-out text or the tasks."""

    kind: MeasureName
    name: str
    bits_per_byte: float
    accuracy: float | None


Runs = Mapping[RunKey, Run]


class _Group(NamedTuple):
    """The items of a domain or a task, and what their losses and sizes are in its measure."""

    name: str
    here: np.ndarray  # bool [items]
    scale: np.ndarray  # float64, by which bits are divided
    size: np.ndarray  # float64 [items of the group]

    @property
    def measure(self) -> Measure:
        """The measure of the group alone."""
        return Measure(np.zeros(len(self.size), int), self.size)

    def losses(self, run: Run) -> np.ndarray:
        """What the measure sums up, float64 [items of the group]."""
        return np.asarray(run.bits[-1][self.here] / self.scale)


class Comparison:
    """The arms of an ablation, compared by the runs that there are."""

    def __init__(self, arms: Sequence[Arm], items: Items, runs: Runs, which: MeasureName, share: float = 1.0) -> None:
        """`share`: of the documents, that are the sub-pool of a run."""
        self._share = share
        self.arms, self.items, self.runs, self.which = arms, items, runs, which
        self.measure, self.inside = items.measure(which)
        self._arm = {arm.name: arm for arm in arms}

    def seeds(self, name: str, factor: float = 1.0) -> list[int]:
        """The seeds of an arm's runs."""
        return sorted(key.seed for key in self.runs if key.arm == name and key.factor == factor)

    def losses(self, name: str, seeds: Sequence[int], share: int = -1, factor: float = 1.0) -> np.ndarray:
        """What the measure sums up, float64 [seeds, items of the measure]."""
        bits = np.stack([self.runs[RunKey(name, seed, factor)].bits[share] for seed in seeds])
        return self.items.losses(bits, self.which)[:, self.inside]

    def difference(self, name: str, other: str) -> Difference:
        """An arm minus another, over the seeds that both have; minus itself it is 0, without noise."""
        seeds = [seed for seed in self.seeds(name) if seed in self.seeds(other)]
        arm, against = self.losses(name, seeds), self.losses(other, seeds)
        noise = self._noise if name != other else NO_NOISE
        return paired_difference(self.measure, arm, against, noise, [self._drawn(name), self._drawn(other)])

    def value(self, name: str, share: int = -1) -> float:
        """The measure of an arm, mean over its seeds."""
        return float(np.mean(self.measure.value(self.losses(name, self.seeds(name), share))))

    def ranked(self) -> list[Arm]:
        """The selections, the best first."""
        found = [arm for arm in self.arms if arm.role == "selection"]
        return sorted(found, key=lambda arm: self.value(arm.name))

    @property
    def noise_arm(self) -> Arm:
        """The arm that measures noise: `all` again, or where nothing repeats the random one of the highest rate."""
        again = [arm for arm in self.arms if arm.role == "again"]
        return (again or sorted((arm for arm in self.arms if arm.role == "random"), key=lambda arm: -arm.rate))[0]

    def noise(self) -> Noise:
        """The noise floor."""
        others = [self.difference(arm.name, ALL) for arm in self.arms if arm.name != ALL]
        arm = self.noise_arm.name
        return Noise(arm=arm, difference=interval(self.difference(arm, ALL)), detectable=detectable(others))

    def results(self, overlap: Mapping[str, Mapping[str, float]]) -> list[ArmResult]:
        """All arms but the one that is `all` again. `overlap`: by arm and task."""
        return [self._result(arm, overlap.get(arm.name, {})) for arm in self.arms if arm.role != "again"]

    def measures(self, run: Run, share: int) -> list[MeasureRow]:
        """The measures of a run after a share of its steps."""
        bits, correct = run.bits[share : share + 1], run.correct[share]
        found = [MeasureRow("heldout", name, value, None) for name, value in self._heldout(bits).items()]
        if self.which == "tasks":
            scores = self._tasks(bits, run.correct[share : share + 1], {})
            mean = float(np.mean([score.bits_per_byte for score in scores.values()]))
            found.append(MeasureRow("tasks", ALL, mean, None))
            for name, score in scores.items():
                accuracy = float(correct[self._where(name, task=True)].mean()) if score.chance is not None else None
                found.append(MeasureRow("tasks", name, score.bits_per_byte, accuracy))
        return found

    def rate_checks(self) -> list[RateCheck]:
        """The runs at other learning rates."""
        keys = sorted(key for key in self.runs if key.factor != 1)
        return [RateCheck(arm=key.arm, factor=key.factor, seed=key.seed, value=self.at_rate(key)) for key in keys]

    def at_rate(self, key: RunKey) -> float:
        """The measure of one run."""
        return float(self.measure.value(self.losses(key.arm, [key.seed], factor=key.factor))[0])

    def _drawn(self, name: str) -> float:
        """The share of the noise of an arm that is common to all seeds: none, if each seed draws documents."""
        arm = self._arm[name]
        if arm.role != "selection":
            return 0.0
        passes = float(np.mean([self.runs[RunKey(name, seed)].passes for seed in self.seeds(name)]))
        return drawn_share(min(1.0, passes) * self._share, arm.rate)

    @cached_property
    def _noise(self) -> RunNoise:
        """The noise of the measure."""
        return self._noise_of(self.measure, lambda run: self.items.losses(run.bits[-1], self.which)[self.inside])

    def _noise_of(self, measure: Measure, losses: Callable[[Run], np.ndarray]) -> RunNoise:
        """The noise of runs in a measure of some of their losses."""
        runs = {(key.arm, key.seed): run for key, run in self.runs.items() if key.factor == 1}
        drawn = {arm.name: self._drawn(arm.name) for arm in self.arms if self.seeds(arm.name)}
        return run_noise({key: float(measure.value(losses(run))) for key, run in runs.items()}, drawn)

    def _result(self, arm: Arm, overlap: Mapping[str, float]) -> ArmResult:
        seeds = self.seeds(arm.name)
        runs = [self.runs[RunKey(arm.name, seed)] for seed in seeds]
        curve = [self.value(arm.name, share) for share in range(len(SHARES))]
        tokens = [round(float(np.mean([run.tokens[share] for run in runs]))) for share in range(len(SHARES))]
        bits, correct = np.stack([run.bits[-1] for run in runs]), np.stack([run.correct[-1] for run in runs])
        control = arm.control
        return ArmResult(
            name=arm.name,
            documents=arm.documents,
            tokens_seen=tokens[-1],
            bytes_seen=round(float(np.mean([run.bytes_seen for run in runs]))),
            passes=float(np.mean([run.passes for run in runs])),
            seeds=len(seeds),
            value=curve[-1],
            heldout=self._heldout(bits),
            tasks=self._tasks(bits, correct, overlap),
            difference=interval(self.difference(arm.name, ALL)),
            random=control,
            against_random=None if control is None else interval(self.difference(arm.name, control)),
            steps_to_baseline=steps_to_baseline(SHARES, curve, self.value(ALL)),
            differences=dict(self._differences(arm.name)),
            curve=[CurvePoint(tokens=count, value=value) for count, value in zip(tokens, curve, strict=True)],
        )

    def _heldout(self, bits: np.ndarray) -> dict[str, float]:
        """Bits per byte by domain, and in all."""
        mean, found = bits.mean(0), {}
        for name in self._names(task=False):
            here = self._where(name, task=False)
            found[name] = float(mean[here].sum() / self.items.n_bytes[here].sum())
        measure, inside = self.items.measure("heldout")
        return {ALL: float(measure.value(mean[inside]))} | found

    def _tasks(self, bits: np.ndarray, correct: np.ndarray, overlap: Mapping[str, float]) -> dict[str, TaskScore]:
        found = {}
        for name in self._names(task=True):
            here = self._where(name, task=True)
            choices = self.items.choices[here]
            chance = float((1 / choices).mean()) if (choices > 1).all() else None
            accuracy = float(correct[:, here].mean())
            error = np.sqrt(chance * (1 - chance) / here.sum()) if chance is not None else np.inf
            shown = chance is not None and accuracy > chance + 2 * error
            found[name] = TaskScore(
                bits_per_byte=float((bits[:, here] / self.items.n_bytes[here]).mean()),
                accuracy=accuracy if shown else None,
                chance=chance,
                overlap=overlap.get(name, 0.0),
            )
        return found

    def _differences(self, name: str) -> list[tuple[str, Interval]]:
        """By domain and task, against `all`."""
        seeds = [seed for seed in self.seeds(name) if seed in self.seeds(ALL)]
        drawn, found = (self._drawn(name), 0.0), []
        for group, noise in self._groups:
            arm, other = (
                np.stack([group.losses(self.runs[RunKey(compared, seed)]) for seed in seeds])
                for compared in (name, ALL)
            )
            between = noise if name != ALL else NO_NOISE
            found.append((group.name, interval(paired_difference(group.measure, arm, other, between, drawn))))
        return found

    @cached_property
    def _groups(self) -> list[tuple[_Group, RunNoise]]:
        """The domains and the tasks, with the noise of runs in each."""
        found = []
        for task in (False, True):
            for name in self._names(task=task):
                here = self._where(name, task=task)
                size = self.items.n_bytes[here]
                group = _Group(name, here, size, np.ones(len(size))) if task else _Group(name, here, np.ones(1), size)
                found.append((group, self._noise_of(group.measure, group.losses)))
        return found

    def _names(self, *, task: bool) -> list[str]:
        return sorted({name for name, found in zip(self.items.name, self.items.is_task, strict=True) if found == task})

    def _where(self, name: str, *, task: bool) -> np.ndarray:
        return np.asarray(np.array([each == name for each in self.items.name]) & (self.items.is_task == task))


def interval(found: Difference) -> Interval:
    """A difference as it is stored."""
    half = found.half_width()
    ends = (None, None) if half is None else (found.value - half, found.value + half)
    return Interval(value=found.value, low=ends[0], high=ends[1])
