"""What trainings learn from real text: minutes, bits per byte on unseen documents, and how far two seeds agree.

A row for each `--references` PRESET:TOKENS. With PRESET:TOKENS:2 it is trained with two seeds, and the row has the rank
correlation of the perplexities that both give to the unseen documents: a selection means no more than that. The preset
`plain` is the plain loop of GPT-2 124M. All have the same text and measure; a preset's tokenizer is learned before.
`--corpus` names Parquet files with a column `text`; without it Python's own sources are read.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import gc
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from scorer.causal_lm.reference import load
from scorer.engine.score_texts import score_texts
from scorer.training.presets import RECIPES
from scorer.training.tokens import train_tokenizer
from scorer.training.train import train
from tests.gpu.plain_loop import DEVICE, train_plain
from tests.gpu.references import sources

UNSEEN = 2_500
LONGEST = 20_000  # characters of an unseen document that are measured


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def documents(paths: list[str]) -> list[str]:
    """The texts of the files, in a seeded order."""
    texts = [text for path in paths for text in pq.read_table(path, columns=["text"])["text"].to_pylist() if text]
    texts = texts or [text for text in sources(60_000_000) if text]
    np.random.default_rng(0).shuffle(texts)  # type: ignore[arg-type]
    return texts


def trained(preset: str, tokens: int, seed: int, seen: list[str], folder: Path, tokenizers: Path) -> float:
    """Trains into `folder`. Returns the minutes that it took, the learning of the tokenizer left out."""
    vocabulary = RECIPES["gpt2-124m" if preset == "plain" else preset].vocabulary  # type: ignore[index]
    tokenizer = tokenizers / f"{vocabulary}.json"
    train_tokenizer(lambda: iter(seen), vocabulary, tokenizer, lambda: None)
    work = folder.with_name("work")
    work.mkdir()
    shutil.copy(tokenizer, work / "tokenizer.json")
    start = time.monotonic()
    if preset == "plain":
        train_plain(seen, tokens, folder, work)
    else:
        train(lambda: iter(seen), preset, tokens, seed, folder, work, DEVICE, lambda *_: None)  # type: ignore[arg-type]
    return (time.monotonic() - start) / 60


def perplexities(folder: Path, texts: list[str]) -> tuple[NDArray[np.float64], float]:
    """The NLL a token of each text in nats, NaN for one without tokens, and the bits per byte of all."""
    scores = score_texts(load(folder, DEVICE), texts)
    total = np.array([score.total for score in scores], dtype=np.float64)
    sizes = sum(len(text.encode()) for text in texts)
    return total / [score.n_tokens for score in scores], float(np.nansum(total)) / math.log(2) / sizes


def row(reference: str, seen: list[str], unseen: list[str], tokenizers: Path) -> str:
    """Trains a reference with each seed."""
    preset, number, *seeds = reference.split(":")
    minutes, bits, ranks = list[float](), list[float](), list[NDArray[np.int64]]()
    for seed in range(int(seeds[0]) if seeds else 1):
        torch.compiler.reset()  # forgets an earlier training
        gc.collect()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            minutes.append(trained(preset, int(number), seed, seen, folder, tokenizers))
            found, each = perplexities(folder, unseen)
            bits.append(each)
            ranks.append(np.argsort(np.argsort(found)))
    agreed = f"{np.corrcoef(*ranks)[0, 1]:.4f}" if len(ranks) == 2 else ""
    return f"{preset:14}{int(number):14,}{min(minutes):9.1f}{np.mean(bits):11.4f}{agreed:>23}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="*", default=[], metavar="PARQUET")
    pairs = ((n, 2 * n) for n in (5_000_000, 20_000_000, 60_000_000))
    every = [name for n, twice in pairs for name in (f"gpt2-124m:{n}", f"plain:{twice}", f"mamba2-130m:{n}")]
    parser.add_argument("--references", nargs="*", default=["tiny:2000000:2", *every])
    given = parser.parse_args()
    texts = documents(given.corpus)
    unseen, seen = [text[:LONGEST] for text in texts[:UNSEEN]], texts[UNSEEN:]
    say(f"{torch.cuda.get_device_name() if DEVICE == 'cuda' else 'CPU'}; torch {torch.__version__}")
    say(f"{len(seen):,} documents to learn from, {len(unseen):,} to measure on")
    say(f"{'reference':14}{'tokens':>14}{'minutes':>9}{'bits/byte':>11}{'Spearman of two seeds':>23}")
    with tempfile.TemporaryDirectory() as tokenizers:
        for reference in given.references:
            say(row(reference, seen, unseen, Path(tokenizers)))


if __name__ == "__main__":
    main()
