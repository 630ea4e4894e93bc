"""The steps of a training, from its last checkpoint to its end, in one process or in one of several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scorer.errors import BadReference
from scorer.training.batches import Batches
from scorer.training.checkpoint import Checkpoint
from scorer.training.heldout import HeldOut
from scorer.training.micro_step import Gradients, MicroStep
from scorer.training.names import OptimizerName
from scorer.training.optimizer import Optimizer
from scorer.training.presets import Recipe
from scorer.training.readback import Readback
from scorer.training.replicas import Replicas
from scorer.training.schedule import Schedule
from scorer.training.tokens import tokens_in

_SAVE_SECONDS = 20.0  # between two checkpoints, at least, and 20 times what writing one takes
_CLIP = 1.0
_LOSS_STEPS = 50  # that the reported loss averages over, roughly
_POINTS = 10  # of the curve of held-out loss

OnProgress = Callable[[int, int, float | None, float | None], None]


@dataclass(frozen=True)
class Job:
    """What all processes of a training know. It can be pickled."""

    recipe: Recipe
    optimizer: OptimizerName
    schedule: Schedule
    seed: int
    rows: int  # of the vocabulary
    start: int  # the token before a document
    work: Path  # has the tokens; keeps the checkpoint
    settings: dict[str, Any]  # a checkpoint of others is not taken up
    device: str


class Training:
    """One training. The first process of several reports, measures and saves."""

    def __init__(self, job: Job, replicas: Replicas, heldout: HeldOut | None = None) -> None:
        """`heldout` is measured ten times on the way."""
        self._schedule, self._replicas, self._heldout = job.schedule, replicas, heldout
        self.device = job.device
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(job.seed)  # the CPU's only: weights are drawn there
            self.model = job.recipe.build(job.rows)
        self.model.module.to(self.device).train()
        data = tokens_in(job.work / "tokens.bin")
        self._batches = Batches(data, self._schedule.sequence, self._schedule.micro, job.start, job.seed)
        self._gradients = Gradients(list(self.model.module.parameters()), self.device)
        self.optimizer = Optimizer(self.model, job.optimizer, job.recipe, self._schedule.weight_decay)
        share = self._schedule.micro / self._schedule.batch
        self._micro = MicroStep(self.model, self._gradients, self._batches.layout, share, self.device)
        self._checkpoint = Checkpoint(job.work / "checkpoint.safetensors", job.settings)
        self._readback = Readback(replicas.check)
        self._loss = 0.0
        self.curve: list[tuple[int, float]] = []  # tokens, and bits per byte of the sample

    def run(self, on_progress: OnProgress) -> float:
        """Takes the steps that are left. Returns a running mean of the loss in nats a token, the same if resumed."""
        saved_at, save_took = time.monotonic(), 0.0
        first = self._restore()
        self._replicas.meet()  # or the file could change while another process reads it
        for step in range(first, self._schedule.steps):
            self.step(step, self._schedule.factor(step), on_progress)
            if self._replicas.rank != 0:
                continue
            if self._heldout is not None and self._is_point(step):
                self._measure(step, on_progress)
            now = time.monotonic()
            if now - saved_at > max(_SAVE_SECONDS, 20 * save_took) and step + 1 < self._schedule.steps:
                self._store(step + 1)
                saved_at = time.monotonic()
                save_took = saved_at - now
        self.drain()
        return self._loss

    def drain(self) -> None:
        """Waits for the steps taken. Raises BadReference if the loss of one is infinite or NaN."""
        self._readback.drain()

    def bits_per_byte(self, heldout: HeldOut, beat: Callable[[], None]) -> float | None:
        """The loss on held-out documents."""
        return heldout.bits_per_byte(self.model, self._batches.layout, self.device, beat)

    def step(self, step: int, factor: float, on_progress: OnProgress) -> None:
        """One step of the optimizer, at `factor` times the recipe's rate, on this process' share of a batch."""
        plan = self._schedule
        mine = range(self._replicas.rank * plan.micro, plan.batch, self._replicas.count * plan.micro)
        for number, at in enumerate(mine, 1):
            self._micro(self._batches.vector(step * plan.batch + at))
            done = min(plan.tokens, (step * plan.batch + at + plan.micro) * plan.sequence)
            scale = plan.batch / (number * plan.micro)

            def tell(loss: float, done: int = done, scale: float = scale) -> None:
                on_progress(done, plan.tokens, loss * scale, self.curve[-1][1] if self.curve else None)

            self._readback.add(self._micro.loss, tell)
            self._readback.drain(ahead=1)  # a GPU has a micro-batch in hand while the host makes the next
        self._replicas.sum([*self._gradients.tensors(), self._micro.loss])
        self._gradients.clip(_CLIP)
        self.optimizer.step(factor)
        self._gradients.clear()
        self._readback.add(self._micro.loss, lambda loss: self._note(step, loss))
        self._micro.loss.zero_()

    def _note(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise BadReference(f"training diverged at step {step + 1}; try another seed")
        self._loss += (loss - self._loss) / min(step + 1, _LOSS_STEPS)

    def _is_point(self, step: int) -> bool:
        """Whether another tenth of the steps is done."""
        steps = self._schedule.steps
        return (step + 1) * _POINTS // steps > step * _POINTS // steps

    def _measure(self, step: int, on_progress: OnProgress) -> None:
        plan = self._schedule
        done = min(plan.tokens, (step + 1) * plan.batch * plan.sequence)
        self._readback.drain()

        def beat() -> None:
            on_progress(done, plan.tokens, self._loss, self.curve[-1][1] if self.curve else None)

        if self._heldout is not None and (found := self.bits_per_byte(self._heldout, beat)) is not None:
            self.curve.append((done, found))

    def _store(self, step: int) -> None:
        """Writes the state after `step` steps."""
        self._readback.drain()  # a loss that is not finite is found before it is stored
        progress = {"step": step, "loss": self._loss, "curve": self.curve}
        self._checkpoint.store(self.model.module, self.optimizer, progress)

    def _restore(self) -> int:
        """Loads the last checkpoint, if there is one. Returns the number of steps taken."""
        progress = self._checkpoint.restore(self.model.module, self.optimizer)
        if progress is None:
            return 0
        self._loss = progress["loss"]
        self.curve = [(tokens, bits) for tokens, bits in progress["curve"]]
        return int(progress["step"])


def run_replica(job: Job, replicas: Replicas) -> None:
    """The work of a process that is not the first."""
    torch.set_num_threads(max(1, torch.get_num_threads() // replicas.count))
    Training(job, replicas).run(lambda *_: None)
