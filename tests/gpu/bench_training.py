"""Training on a GPU: tokens a second and memory of the presets beside a plain compiled loop, and what is learnt.

`speed` (the default) prints a row for each preset, and for a plain loop: transformers' GPT-2, torch.compile, bfloat16
autocast, whole logits, 32 x 1,024, fused AdamW. `quality` trains GPT-2 124M by both on the same text and compares bits
per byte on documents that neither has seen. `agreement` trains each `--references` PRESET:TOKENS with two seeds, and
prints the rank correlation of the perplexities that both give to unseen documents: a selection means no more than that.
`--corpus` names files of text; without it Python's own sources are read.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import contextlib
import gc
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from scorer.causal_lm.reference import load
from scorer.engine.score_texts import score_texts
from scorer.training import loop
from scorer.training.batches import Batches, Layout
from scorer.training.heldout import HeldOut
from scorer.training.initial import Saved
from scorer.training.loop import Job, Training
from scorer.training.names import OptimizerName, Preset
from scorer.training.presets import RECIPES
from scorer.training.replicas import Replicas
from scorer.training.schedule import make_schedule
from scorer.training.tokens import save_tokenizer, tokenize, train_tokenizer
from scorer.training.train import train
from tests.gpu.references import sources

WARM_STEPS = 20
BUDGET = 300_000_000  # tokens that the batch of a speed follows from
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of `agreement`; the others need a GPU
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
    preset: Preset, seconds: float, optimizer: OptimizerName | None = None, micro: int | None = None
) -> Speed:
    """Trains on random tokens for some seconds after the first steps."""
    start_afresh()
    recipe = RECIPES[preset]
    name = optimizer or recipe.optimizer
    plan = make_schedule(BUDGET, BUDGET, recipe.sequence, (recipe.batch, recipe.budget), micro or recipe.micro_gpu)
    began: list[tuple[float, int]] = []

    def told(done: int, _total: int, loss: float | None, _heldout: float | None) -> None:
        if loss is not None and done >= WARM_STEPS * plan.batch * plan.sequence:
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
    if DEVICE == "cpu":
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def peak() -> tuple[float, float]:
    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


class Plain:
    """The loop that a practised user writes in an hour."""

    def __init__(self, vocabulary: int, rate: float = 6e-4) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(vocab_size=vocabulary, bos_token_id=0, eos_token_id=0, use_cache=False, **dropout)
        self.model = GPT2LMHeadModel(config).cuda().train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.rate = rate
        self.compiled = torch.compile(self.model)

    def step(self, rows: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        with torch.autocast("cuda", torch.bfloat16):
            logits = self.compiled(rows[:, :-1]).logits
            loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()


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


def speed(seconds: float) -> None:
    loop._SAVE_SECONDS = math.inf  # the window is shorter than the time between two checkpoints
    say(timed_training("gpt2-124m", seconds).row("gpt2-124m"))
    say(timed_training("124m", seconds).row("124m"))
    say(timed_plain(60).row("plain loop, GPT-2 124M"))
    for preset in ("mamba2-130m", "10m", "30m"):
        say(timed_training(preset, seconds).row(preset))


# -- what is learnt
def documents(paths: list[str]) -> list[str]:
    """The text of Parquet files with a column `text`, or Python's own sources, in a seeded order."""
    texts: list[str] = []
    for path in paths:
        import pyarrow.parquet as pq

        texts += [text for text in pq.read_table(path, columns=["text"])["text"].to_pylist() if text]
    texts = texts or [text for text in sources(60_000_000) if text]
    np.random.default_rng(0).shuffle(texts)  # type: ignore[arg-type]
    return texts


def bits_per_byte(folder: Path, texts: list[str]) -> float:
    """The bits per byte of a saved model on texts, in rows of 1,024 tokens; no document sees another."""
    model = Saved(folder)(0)
    model.module.cuda()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokens = np.concatenate([[0, *found.ids] for found in tokenizer.encode_batch_fast(texts)]).astype(np.uint16)
    heldout = HeldOut(tokens, [len(text.encode()) for text in texts], 0)
    return heldout.bits_per_byte(model, Layout(16, 1024), "cuda", lambda: None) or math.nan


def quality(paths: list[str], preset: Preset, arms: list[str]) -> None:
    """Each arm is an optimizer, or `plain`, and a budget in tokens, such as muon:5000000."""
    texts = documents(paths)
    unseen, seen = texts[:2_500], texts[2_500:]
    unseen = [text[:20_000] for text in unseen]
    say(f"{len(seen):,} documents to learn from, {len(unseen):,} to measure on")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.monotonic()
        train_tokenizer(lambda: iter(seen), RECIPES[preset].vocabulary, folder / "tokenizer.json", lambda: None)
        say(f"the tokenizer, the same for all: {time.monotonic() - start:.1f} s")
        for arm in arms:
            who, _, number = arm.partition(":")
            start_afresh()
            trained, work = folder / "trained", folder / "work"
            work.mkdir()
            shutil.copy(folder / "tokenizer.json", work)
            start = time.monotonic()
            curve = ""
            if who == "plain":
                tokens = train_plain(seen, int(number), trained, work)
            else:
                optimizer: OptimizerName = "muon" if who == "muon" else "adamw"
                tokens, said = int(number), lambda *_: None
                train(lambda: iter(seen), preset, tokens, 0, trained, work, "cuda", said, optimizer=optimizer)
                curve = str(json.loads((trained / "training.json").read_text())["heldout_curve"])
            seconds = time.monotonic() - start
            found = bits_per_byte(trained, unseen)
            say(f"{who:6} {tokens:12,} tokens {seconds:6.1f} s   {found:.4f} bits/byte   {curve}")
            shutil.rmtree(trained)
            shutil.rmtree(work)


def agreement(paths: list[str], references: list[str]) -> None:
    """A row for each reference: minutes of one training, bits per byte, and how two seeds agree."""
    texts = documents(paths)
    unseen, seen = [text[:20_000] for text in texts[:2_500]], texts[2_500:]
    say(f"{'reference':14}{'tokens':>14}{'minutes':>9}{'bits/byte':>11}{'Spearman of two seeds':>23}")
    for reference in references:
        preset, _, number = reference.partition(":")
        ranks, taken, bits = [], list[float](), list[float]()
        for seed in (0, 1):
            start_afresh()
            with tempfile.TemporaryDirectory() as name:
                folder, said, start = Path(name) / "model", lambda *_: None, time.monotonic()
                train(lambda: iter(seen), preset, int(number), seed, folder, Path(name) / "work", DEVICE, said)
                taken.append((time.monotonic() - start) / 60)
                scores = score_texts(load(folder, DEVICE), unseen)
                found = np.array([score.total for score in scores], dtype=np.float64)
                bits.append(np.nansum(found) / math.log(2) / sum(len(text.encode()) for text in unseen))
                ranks.append(np.argsort(np.argsort(found / [score.n_tokens for score in scores])))
        agreed = np.corrcoef(*ranks)[0, 1]
        say(f"{preset:14}{int(number):14,}{min(taken):9.1f}{np.mean(bits):11.4f}{agreed:23.4f}")


def train_plain(texts: list[str], budget: int, folder: Path, work: Path) -> int:
    """The plain loop, 16 x 1,024, warm-up of 5 % and a cosine to zero, over rows that cross documents."""
    learnt = Tokenizer.from_file(str(work / "tokenizer.json"))
    data = tokenize(lambda: iter(texts), learnt, budget, work, lambda: None).trained
    vocabulary = -(-learnt.get_vocab_size() // 16) * 16
    plain = Plain(vocabulary)
    batches = Batches(data, 1024, 16, 0, 0)
    steps = budget // (16 * 1024)
    warm = max(1, round(0.05 * steps))
    for step in range(steps):
        factor = (step + 1) / warm
        if step >= warm:
            factor = 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        batch = batches.layout.split(batches.vector(16 * step))
        rows = torch.cat((batch.ids, batch.targets[:, -1:]), dim=1)
        plain.step(rows.pin_memory().to("cuda", non_blocking=True), factor)
    plain.model.save_pretrained(folder)
    save_tokenizer(work / "tokenizer.json", folder)
    return steps * 16 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("speed", "quality", "agreement"), default="speed")
    parser.add_argument("--corpus", nargs="*", default=[], metavar="PARQUET")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each timed training (default: 4)")
    parser.add_argument("--preset", default="gpt2-124m")
    budgets = (5_000_000, 20_000_000)
    parser.add_argument("--arms", nargs="*", default=[f"{who}:{n}" for n in budgets for who in ("muon", "plain")])
    every = [f"{preset}:{n}" for n in (5_000_000, 20_000_000, 60_000_000) for preset in ("gpt2-124m", "mamba2-130m")]
    parser.add_argument("--references", nargs="*", default=["tiny:2000000", *every])
    given = parser.parse_args()
    say(f"{torch.cuda.get_device_name() if DEVICE == 'cuda' else 'CPU'}; torch {torch.__version__}")
    if given.what == "speed":
        speed(given.seconds)
    elif given.what == "agreement":
        agreement(given.corpus, given.references)
    else:
        quality(given.corpus, given.preset, given.arms)


if __name__ == "__main__":
    main()
