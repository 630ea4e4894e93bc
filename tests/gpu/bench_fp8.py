"""What 8-bit products do to the order of documents: references are trained on real text, and score unseen documents.

A row for each reference and data type beside bfloat16: Spearman's rank correlation of the NLL a token, what selections
of half of the documents have in common, the mean difference of documents and its deviation, and the rate. `--corpus`
names Parquet files with a column `text`; without it Python's own sources are read. `--keep DIR` keeps the trained
references there, and takes them from there the next time. What the trial at loading says is printed.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import gc
import logging
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import numpy as np
import torch
from numpy.typing import NDArray

from scorer.causal_lm import fp8_trial
from scorer.causal_lm.reference import Dtype, load
from scorer.engine.scoring import score
from scorer.errors import BadReference
from tests.gpu.bench_learning import DEVICE, LONGEST, UNSEEN, documents, say, trained

Values = NDArray[np.float64]


def scored(folder: Path, dtype: Dtype, texts: list[str]) -> tuple[Values, float]:
    """The NLL a token of each text, and millions of tokens a second."""
    reference = load(folder, DEVICE, dtype)
    for _ in range(2):  # the first warms up
        start = time.monotonic()
        ((_, nll, n_tokens, *_),) = score(reference, [(texts, None)], on_progress=lambda *_: None)
        rate = n_tokens.sum() / (time.monotonic() - start) / 1e6
    return nll / np.maximum(n_tokens, 1), rate


def in_common(first: Values, second: Values, start: float) -> float:
    """The share of the half from this quantile on that two orders have in common."""
    size, at = len(first) // 2, int(start * len(first))
    kept = (np.argsort(values, kind="stable")[at : at + size] for values in (first, second))
    return len(np.intersect1d(*kept)) / size


def rows(preset: str, folder: Path, texts: list[str]) -> None:
    """Compares the data types of a reference."""
    middle, rate = scored(folder, "bfloat16", texts)
    say(f"{preset:14}{'bfloat16':10}{'':9}{'':27}{middle.mean():9.4f}{middle.std():9.4f}{rate:9.3f} M tokens/s")
    for dtype in ("float32", "fp8"):
        torch.compiler.reset()
        gc.collect()
        try:
            found, rate = scored(folder, dtype, texts)
        except BadReference as error:
            say(f"{preset:14}{error}")
            with mock.patch.object(fp8_trial, "LEAST_CORRELATION", -2.0):
                found, rate = scored(folder, dtype, texts)
        off = found - middle
        common = "".join(f"{in_common(middle, found, start):9.2%}" for start in (0.0, 0.25, 0.5))
        order = fp8_trial.agreement(middle, found)
        say(f"{preset:14}{dtype:10}{order:9.5f}{common}{off.mean():9.4f}{off.std():9.4f}{rate:9.3f} M tokens/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="*", default=[], metavar="PARQUET")
    parser.add_argument("--references", nargs="*", default=["gpt2-124m:5000000", "mamba2-130m:5000000"])
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
    logging.getLogger("winnow.reference").setLevel(logging.INFO)
    texts = documents(given.corpus)
    unseen, seen = [text[:LONGEST] for text in texts[:UNSEEN]], texts[UNSEEN:]
    say(f"{torch.cuda.get_device_name() if DEVICE == 'cuda' else 'CPU'}; torch {torch.__version__}")
    say(f"{'reference':14}{'dtype':10}{'Spearman':>9}{'low':>9}{'medium':>9}{'high':>9}{'mean':>9}{'between':>9}")
    with tempfile.TemporaryDirectory() as temporary:
        for name in given.references:
            preset, tokens = name.split(":")
            folder = (given.keep or Path(temporary)) / preset / "model"
            if not folder.is_dir():
                folder.parent.mkdir(parents=True, exist_ok=True)
                trained(preset, int(tokens), 0, seen, folder, Path(temporary))
                torch.compiler.reset()  # forgets the training
                gc.collect()
            rows(preset, folder, unseen)


if __name__ == "__main__":
    main()
