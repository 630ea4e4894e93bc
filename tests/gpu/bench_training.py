"""Training on a GPU: tokens a second and memory of the presets, beside a plain compiled loop of GPT-2 124M.

`--presets` are names, each with a number of sequences at a time if it is not the preset's own: gpt2-124m:32.
`--side-by-side PRESET:N` are trained in N processes at once, as by N workers that share the GPU.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import contextlib
import gc
import math
import multiprocessing
import sys
import tempfile
import time
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
from scorer.training.presets import RECIPES
from scorer.training.replicas import Replicas
from scorer.training.schedule import make_schedule
from tests.gpu.plain_loop import Plain

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
    plan = make_schedule(BUDGET, BUDGET, recipe.sequence, (recipe.batch, recipe.budget), micro or recipe.micro_gpu)
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
    batch = f"{name}, steps of {plan.batch} x {plan.sequence}, {plan.micro} at a time"
    return Speed(rate, *peak(), batch, began[-1][1] // (plan.batch * plan.sequence))


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
    found.put(timed_training(preset, seconds, None, barrier.wait).tokens_per_second)


def side_by_side(preset: Preset, count: int, seconds: float) -> str:
    """A row: the tokens a second of all processes."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(count), context.Queue()
    processes = [context.Process(target=one_of_several, args=(preset, seconds, barrier, found)) for _ in range(count)]
    for process in processes:
        process.start()
    rate = sum(found.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    return f"{f'{preset}, {count} side by side':28} {rate / 1e6:6.3f} M tokens/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each timed training (default: 4)")
    parser.add_argument("--presets", nargs="*", default=["gpt2-124m", "124m", "mamba2-130m", "10m", "30m"])
    parser.add_argument("--side-by-side", nargs="*", default=["10m:2", "nano:1", "nano:4"])
    given = parser.parse_args()

    say(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
    say(timed_plain(60).row("plain loop, GPT-2 124M"))
    for wanted in given.presets:
        preset, _, micro = wanted.partition(":")
        say(timed_training(preset, given.seconds, int(micro) if micro else None).row(wanted))
    start_afresh()
    for wanted in given.side_by_side:
        preset, _, count = wanted.partition(":")
        say(side_by_side(preset, int(count), 2 * given.seconds))


if __name__ == "__main__":
    main()
