"""Text in, scores out, a second: ours beside the peers, in one run on the same documents.

Prints a table. `--corpus` names files of real text (by default Python's own sources are read), `--tokenizer` a
tokenizer.json (by default a small one is made), `--megabytes` how much text is read; the slow peers read a part of it.
Weights are random: they change no speed. With `--dtype fp8` what the trial at loading says of them is not heard.
"""
# ruff: noqa: E402  (tune_process comes before torch)

import argparse
import itertools
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))

from scorer.process import tune_process

tune_process()  # before torch is imported, as a worker does

# isort: split
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from pruner.corpus.plan import make_plan
from pruner.corpus.shard_reader import read_shard
from pruner.spec import CorpusSpec
from scorer.causal_lm import fp8_trial
from scorer.causal_lm.reference import Reference, load
from scorer.engine.scoring import Scoring, score
from tests.gpu.references import HYBRIDS, make_reference, sources

ON_GPU = torch.cuda.is_available()
ROWS = 32 if ON_GPU else 8  # of the peers' batches: more take 20 GB of logits
LENGTH = 1024  # tokens of their rows, at most
DEVICE = "cuda" if ON_GPU else "cpu"
RECUT = 0.4  # of the text is read again, cut into documents of other lengths
Blocks = Callable[[], Iterable[list[str]]]
Draw = Callable[[random.Random], int]
LENGTHS: dict[str, Draw] = {  # in characters
    "web": lambda draw: 1 + round(draw.lognormvariate(math.log(1900), 0.96)),  # mean 3,000: about FineWeb's
    "long": lambda _: 600_000,  # more than 100,000 tokens
}


class Measured(NamedTuple):
    """What a loop did: tokens scored, seconds, CPU seconds of this process, and what else there is to say."""

    tokens: int
    seconds: float
    cpu_seconds: float
    note: str = ""


def corpus(paths: list[str], field: str, megabytes: float) -> Blocks:
    """Blocks of documents, read from the files anew at each call, as the workers read them; again if they are few."""

    def blocks() -> Iterator[list[str]]:
        left = megabytes * 1e6
        while left > 0:
            for block in files() if paths else stdlib():
                texts = []
                for text in block:
                    if text is not None and left > 0:
                        texts.append(text)
                        left -= len(text)
                yield texts
                if left <= 0:
                    return

    def files() -> Iterator[list[str | None]]:
        spec = CorpusSpec(paths=paths, text_field=field)
        plan = make_plan(spec)
        for shard in plan.shards:
            for batch in read_shard(plan.files_of(shard), shard, spec):
                yield batch["text"].to_pylist()

    def stdlib() -> Iterator[list[str | None]]:
        documents = iter(sources(1 << 62))
        while block := list(itertools.islice(documents, 64)):
            yield list(block)

    return blocks


def recut(blocks: Blocks, length: Draw, megabytes: float) -> Blocks:
    """The same text, one document after the other, cut into documents of lengths that are drawn."""

    def cut() -> Iterator[list[str]]:
        draw = random.Random(0)
        kept, left, size = "", megabytes * 1e6, length(draw)
        for block in blocks():
            text, at = kept + "\n".join(block), 0
            documents = []
            while len(text) - at >= size:
                documents.append(text[at : at + size])
                at, left, size = at + size, left - size, length(draw)
            kept = text[at:]
            yield documents
            if left <= 0:
                return

    return cut


def some(blocks: Blocks, megabytes: float) -> list[str]:
    """The first documents of a corpus."""
    texts: list[str] = []
    for block in blocks():
        for text in block:
            if megabytes <= 0:
                return texts
            texts.append(text)
            megabytes -= len(text) / 1e6
    return texts


def timed(work: Callable[[], tuple[int, str]]) -> Measured:
    """Runs what returns tokens and a note."""
    used, start = time.process_time(), time.monotonic()
    tokens, note = work()
    if ON_GPU:
        torch.cuda.synchronize()
    return Measured(tokens, time.monotonic() - start, time.process_time() - used, note)


# -- ours
def scored(reference: Reference, blocks: Iterable[list[str]]) -> Scoring[None]:
    """All of it, scored."""
    run = score(reference, ((texts, None) for texts in blocks), on_progress=lambda *_: None)
    for _ in run:
        pass
    return run


def ours(reference: Reference, blocks: Blocks) -> Measured:
    """The scoring loop, text in and scores out."""
    scored(reference, [some(blocks, 0.5 if ON_GPU else 0.01)])  # warms up

    def work() -> tuple[int, str]:
        run = scored(reference, blocks())
        return run.tokens, f"{run.batches} batches, waste {run.waste:.2%}, {reference.tokenizer.library}"

    return timed(work)


def busy(work: Callable[[list[list[str]]], object], texts: list[str]) -> float:
    """The share of the time between the first and the last kernel of work on blocks in which some kernel runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work([texts[i : i + 256] for i in range(0, len(texts), 256)])
    spans = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith("Mem")
    )
    covered, reached = 0.0, spans[0][0]
    for start, end in spans:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered / (reached - spans[0][0])


def seconds_to_load(folder: Path, dtype: str) -> float:
    """From the start of a process to a reference that is ready for its first shard, on a machine that had one before.

    So Python's bytecode and what the compilers made lie on the disk.
    """
    code = (
        "from scorer.process import tune_process; tune_process();"
        "from pathlib import Path; from scorer.causal_lm.reference import load; "
        "from scorer.causal_lm import fp8_trial; fp8_trial.LEAST_CORRELATION = -2; "
        f"load(Path({str(folder)!r}), 'cuda', {dtype!r});"
        "import time; print(time.monotonic())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(folder.parent / "bytecode")

    def once() -> float:
        start = time.monotonic()  # one clock for all processes
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1]) - start

    once()
    return once()


# -- peers
def plain(model: Any, tokenizer: Any, texts: list[str], rows: int) -> Measured:
    """What one would write in ten lines: padded batches in the given order, cut at 1,024 tokens, whole logits."""

    @torch.inference_mode()
    def work() -> tuple[int, str]:
        tokens = 0
        for i in range(0, len(texts), rows):
            batch = [tokenizer.bos_token + text for text in texts[i : i + rows]]
            x = tokenizer(batch, return_tensors="pt", padding=True, truncation=True, max_length=LENGTH).to(DEVICE)
            logits = model(**x, use_cache=False).logits[:, :-1]
            nll = F.cross_entropy(logits.float().transpose(1, 2), x.input_ids[:, 1:], reduction="none")
            mask = x.attention_mask[:, 1:]
            (nll * mask).sum(1).cpu()
            tokens += int(mask.sum())
        return tokens, f"batches of {rows}, padded" if rows > 1 else "one at a time"

    return timed(work)


@torch.inference_mode()
def ideal(model: Any, vocabulary: int, batches: int = 20) -> Measured:
    """The model compiled, on full batches of random ids that are there already: no reading, no tokenizing."""
    compiled = torch.compile(
        lambda ids: F.cross_entropy(
            model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
    )
    ids = torch.randint(vocabulary, (ROWS, LENGTH), device=DEVICE)
    for _ in range(3):
        compiled(ids)

    def work() -> tuple[int, str]:
        for _ in range(batches):
            compiled(ids)
        return batches * ids.numel(), "compiled, full batches, no text"

    return timed(work)


def say(line: str) -> None:
    """A line of the table, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def row(name: str, loop: str, found: Measured) -> None:
    """One line: what it is, how fast, at what price."""
    rate = found.tokens / found.seconds
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:5.2f} GiB" if ON_GPU else f"{resident():5.2f} GiB"
    cost = f"{1e12 / rate / 3600:9,.0f} h" if ON_GPU else ""
    cores = found.cpu_seconds / found.seconds
    say(f"{name:21} {loop:6} {rate / 1e6:8.4f} M tokens/s {cores:5.1f} cores {peak} {cost}  {found.note}")
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()


def resident() -> float:
    """The most memory that this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(preset: str, folder: Path, blocks: Blocks, given: argparse.Namespace) -> None:
    """All rows of a reference, and the ratios that matter."""
    reference = load(folder, DEVICE, given.dtype)
    if given.budget:
        reference.budget = given.budget
        reference.prepare()
    mine = ours(reference, blocks)
    row(preset, "ours", mine)
    if ON_GPU:
        share = busy(partial(scored, reference), some(blocks, min(given.megabytes, 20)))
        say(f"{preset:21}        the GPU computes {share:.1%} of the time")
        for name, length in LENGTHS.items():
            row(preset, name, ours(reference, recut(blocks, length, RECUT * given.megabytes)))
        say(f"{preset:21}        a process that starts is ready after {seconds_to_load(folder, given.dtype):.1f} s")
    del reference
    if ON_GPU:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if preset in HYBRIDS or ("mamba" in preset and ON_GPU):
        return  # transformers has no such hybrid, and its own Mamba-2 takes minutes without its optional kernels
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    dtype = (
        torch.bfloat16 if given.dtype in ("bfloat16", "fp8") or (ON_GPU and given.dtype == "auto") else torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(DEVICE).eval()
    for rows, share in ((ROWS, 1.0), (1, 0.1)):
        part = some(blocks, given.peer_megabytes * share)
        if rows > 1:
            plain(model, tokenizer, part[:rows], rows)
        found = plain(model, tokenizer, part, rows)
        row(preset, "plain", found)
        say(f"{preset:21}        ours is {mine.tokens / mine.seconds * found.seconds / found.tokens:.2f} times that")
    if "gpt2" in preset and ON_GPU:
        found = ideal(model, len(tokenizer))
        row(preset, "ideal", found)
        say(f"{preset:21}        ours is {mine.tokens / mine.seconds * found.seconds / found.tokens:.2f} times that")


def main() -> None:
    """Measures each reference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", nargs="*", default=[], metavar="PATH")
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--peer-megabytes", type=float, default=4.0)
    presets = ["gpt2-124m", "mamba2-130m", "mamba2-130m-attention"]
    parser.add_argument("--presets", nargs="*", default=presets, help="of references, or hybrids in references.py")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "fp8"))
    parser.add_argument("--budget", type=int, help="tokens of a pack")
    given = parser.parse_args()
    fp8_trial.LEAST_CORRELATION = -2.0
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # as the workers do
    blocks = corpus(given.corpus, given.text_field, given.megabytes)
    name = torch.cuda.get_device_name() if ON_GPU else "cpu"
    say(f"device: {name}; {len(os.sched_getaffinity(0))} cores; torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        if given.tokenizer is not None:
            file.write_bytes(given.tokenizer.read_bytes())
        for preset in given.presets:
            made = make_reference(preset, Path(folder) / preset, file)
            vocabulary = json.loads((made / "config.json").read_text())["vocab_size"]
            say(f"{preset}: vocabulary of {vocabulary:,}; tokens/s, CPU cores, peak memory, hours for 10^12 tokens")
            measure(preset, made, blocks, given)


if __name__ == "__main__":
    main()
