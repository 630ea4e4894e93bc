"""Training on a GPU: tokens a second and memory of the presets, beside a plain compiled loop of GPT-2 124M.

`--presets` are names, each with a number of sequences at a time if it is not the preset's own: gpt2-124m:32.
`--side-by-side PRESET:N` are trained in N processes at once, as by N workers that share the GPU; `--stacked PRESET:N`
in one process, each layer one batched product over all N models. Their speeds are of all N together.
"""
# ruff: noqa: E402  (tune_process comes before torch)

from __future__ import annotations

import argparse
import contextlib
import gc
import math
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import numpy as np
import torch

from scorer.training import loop
from scorer.training.loop import Job, Training
from scorer.training.names import Preset
from scorer.training.presets import RECIPES, Recipe
from scorer.training.replicas import Replicas
from scorer.training.schedule import Schedule, make_schedule
from scorer.training.tokens import tokens_in
from tests.gpu.plain_loop import Plain
from tests.gpu.stacked import StackedTraining

WARM_STEPS = 20
BUDGET = 300_000_000  # tokens that the batch of a speed follows from
PLAIN = (32, 1024)  # rows and tokens of the plain loop


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


class Speed(NamedTuple):
    """Of a training, after its first steps."""

    tokens_per_second: float
    allocated: float  # GiB, at most
    reserved: float
    batch: str
    steps: int

    def row(self, name: str) -> str:
        return (
            f"{name:28} {self.tokens_per_second / 1e6:6.3f} M tokens/s   peak {self.allocated:5.2f} GiB"
            f" (reserved {self.reserved:5.2f})   {self.batch}, {self.steps} steps"
        )


class Enough(Exception):
    """Ends a training that is only timed."""


def random_tokens(path: Path, vocabulary: int) -> None:
    """Documents of lengths as on the web, in random tokens."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, vocabulary, 4_000_000).astype(np.uint16)
    ends = np.cumsum(np.maximum(2, draw.lognormal(math.log(500), 1.0, 20_000)).astype(np.int64))
    tokens[np.concatenate(([0], ends[ends < len(tokens)]))] = 0
    tokens.tofile(path)


def timed_training(
    preset: Preset, seconds: float, micro: int | None, meet: Callable[[], object] = lambda: None
) -> Speed:
    """Trains on random tokens for some seconds after the first steps; `meet` is called before these seconds."""
    loop._SAVE_SECONDS = math.inf  # the window is shorter than the time between two checkpoints
    start_afresh()
    recipe = RECIPES[preset]
    name = recipe.optimizer
    plan = schedule(recipe, micro)
    began: list[tuple[float, int]] = []

    def told(done: int, _total: int, loss: float | None, _heldout: float | None) -> None:
        if loss is not None and done >= WARM_STEPS * plan.batch * plan.sequence:
            if not began:
                meet()
            began.append((time.monotonic(), done))
            if began[-1][0] - began[0][0] > seconds:
                raise Enough

    with tempfile.TemporaryDirectory() as folder:
        random_tokens(Path(folder) / "tokens.bin", recipe.vocabulary)
        job = Job(recipe, name, plan, 0, recipe.vocabulary, 0, Path(folder), {}, "cuda")
        with contextlib.suppress(Enough):
            Training(job, Replicas(0, 1, [])).run(told)
    rate = (began[-1][1] - began[0][1]) / (began[-1][0] - began[0][0])
    return Speed(rate, *peak(), steps_of(plan, name), began[-1][1] // (plan.batch * plan.sequence))


def schedule(recipe: Recipe, micro: int | None = None) -> Schedule:
    return make_schedule(BUDGET, BUDGET, recipe.sequence, (recipe.batch, recipe.budget), micro or recipe.micro_gpu)


def steps_of(plan: Schedule, optimizer: str) -> str:
    return f"{optimizer}, steps of {plan.batch} x {plan.sequence}, {plan.micro} at a time"


def timed_stacked(preset: Preset, count: int, seconds: float) -> Speed:
    """Trains models in one process, for some seconds after the first steps, each as `timed_training` trains one."""
    start_afresh()
    recipe = RECIPES[preset]
    plan = schedule(recipe)
    with tempfile.TemporaryDirectory() as folder:
        random_tokens(Path(folder) / "tokens.bin", recipe.vocabulary)
        training = StackedTraining(recipe, plan, count, tokens_in(Path(folder) / "tokens.bin"), "cuda")
        for step in range(WARM_STEPS):
            training.step(step)
        torch.cuda.synchronize()
        steps, start = WARM_STEPS, time.monotonic()
        while time.monotonic() - start < seconds:
            training.step(steps)
            steps += 1
        torch.cuda.synchronize()
        rate = (steps - WARM_STEPS) * count * plan.batch * plan.sequence / (time.monotonic() - start)
    batch = f"{steps_of(plan, recipe.optimizer)}, differs from single models by {training.error:.0e}"
    return Speed(rate, *peak(), batch, steps)


def start_afresh() -> None:
    """Forgets what an earlier training compiled and held."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def peak() -> tuple[float, float]:
    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


def timed_plain(steps: int) -> Speed:
    start_afresh()
    plain = Plain(50_304)
    rows = torch.randint(0, 50_304, (PLAIN[0], PLAIN[1] + 1), device="cuda")
    for _ in range(WARM_STEPS):
        plain.step(rows)
    torch.cuda.synchronize()
    start = time.monotonic()
    for _ in range(steps):
        plain.step(rows)
    torch.cuda.synchronize()
    rate = steps * PLAIN[0] * PLAIN[1] / (time.monotonic() - start)
    return Speed(rate, *peak(), f"adamw, steps of {PLAIN[0]} x {PLAIN[1]}", WARM_STEPS + steps)


def one_of_several(preset: Preset, seconds: float, barrier: Barrier, found: Queue[float]) -> None:
    """One of the processes that share the GPU."""
    try:
        found.put(timed_training(preset, seconds, None, barrier.wait).tokens_per_second)
    except BaseException:
        barrier.abort()  # or the others would wait for this one
        found.put(math.nan)
        raise


def trained_row(preset: Preset, micro: int, seconds: float) -> str:
    """`micro` is 0 for the preset's own."""
    return timed_training(preset, seconds, micro or None).row(f"{preset}:{micro}" if micro else preset)


def stacked_row(preset: Preset, count: int, seconds: float) -> str:
    return timed_stacked(preset, count, seconds).row(f"{preset}, {count} stacked")


def side_by_side_row(preset: Preset, count: int, seconds: float) -> str:
    """The tokens a second of all processes."""
    start_afresh()
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(count), context.Queue()
    given = (preset, 2 * seconds, barrier, found)
    processes = [context.Process(target=one_of_several, args=given) for _ in range(count)]
    for process in processes:
        process.start()
    rate = sum(found.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    if math.isnan(rate):
        raise RuntimeError("a process failed")
    return f"{f'{preset}, {count} side by side':28} {rate / 1e6:6.3f} M tokens/s"


def main() -> None:
    """Prints a row of each. One that fails prints its error; the exit status is 1 then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each timed training (default: 4)")
    parser.add_argument("--presets", nargs="*", default=["gpt2-124m", "124m", "mamba2-130m", "10m", "30m"])
    parser.add_argument(
        "--stacked", nargs="*", default=[], help="PRESET:N, two or more of GPT-2's shape with AdamW (default: none)"
    )
    parser.add_argument("--side-by-side", nargs="*", default=["10m:2", "nano:1", "nano:4"])
    given = parser.parse_args()

    say(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
    say(timed_plain(60).row("plain loop, GPT-2 124M"))
    failed = False
    rows = (trained_row, given.presets), (stacked_row, given.stacked), (side_by_side_row, given.side_by_side)
    for measure, names in rows:
        for wanted in names:
            preset, _, number = wanted.partition(":")
            try:
                say(measure(preset, int(number or 0), given.seconds))
            except Exception:
                failed = True
                say(f"{wanted}, {measure.__name__} failed: {traceback.format_exc()}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
