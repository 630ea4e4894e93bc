"""Trains a reference on text and saves it as a Hugging Face model folder; a killed training resumes.

The same texts, preset, token count, seed and number of processes give the same weights on one kind of device, killed or
not. Knows no corpus.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from scorer.causal_lm.checkpoint import WEIGHTS
from scorer.errors import BadReference
from scorer.fingerprint import fingerprint
from scorer.training.heldout import HeldOut
from scorer.training.initial import Initial, initial
from scorer.training.loop import Job, OnProgress, Training, run_replica
from scorer.training.names import OptimizerName, Preset
from scorer.training.presets import RECIPES, Recipe, TrainingModel
from scorer.training.replicas import replicas, visible_gpus
from scorer.training.schedule import make_schedule
from scorer.training.summary import TrainingSummary, too_little
from scorer.training.tokens import Beat, Texts, TrainingTokens, save_tokenizer, tokenize, train_tokenizer

__all__ = ["OnProgress", "train"]

# Up to four times, repeated text teaches nearly as much as new (Muennighoff et al., https://arxiv.org/abs/2305.16264).
# After eight passes a tiny reference of 57,000 tokens had twice the perplexity on new text that it had after four.
_PASSES = 4
_SHARE = 8_192  # tokens of a batch that a GPU gets, at least: it takes longer for them than for the gradients' exchange
_SAMPLE = 400  # measured on the way, each time, is a share of the tokens that costs a thousandth of the training


@dataclass(frozen=True)
class _Start:
    """What a training begins with."""

    preset: Preset
    recipe: Recipe
    rows: int  # of the vocabulary
    token: int  # before each document
    data: TrainingTokens
    tokenizer: Callable[[Path], None]  # writes its files into a folder


def train(
    texts: Texts,
    preset: Preset | None,
    tokens: int,
    seed: int,
    folder: Path,
    work: Path,
    device: str,
    on_progress: OnProgress,
    *,
    optimizer: OptimizerName | None = None,
    processes: int = 1,
    gpus: Sequence[str] | None = None,
    source: Path | None = None,
) -> TrainingSummary:
    """Trains a preset on `tokens` tokens of the texts, repeats included, and saves it in `folder`.

    `texts` gives an iterator over the documents at each call, always the same ones in the same order; a second thread
    reads it while the tokenizer learns. Every 20th document is not learnt from, and measures the loss. The first
    `tokens` tokens of the others are used, in a seeded order; if there are fewer, they are used again in another order,
    four times at most. So give a mixed sample, not file after file.

    `optimizer` is the preset's own by default. With `source`, the folder of a GPT-2 or Mamba-2 model, the training goes
    on from its weights with its tokenizer, and `preset` is None. `processes` share each batch, each on a GPU of its
    own: the first on this process' own one, the others on `gpus`, as CUDA_VISIBLE_DEVICES names them, by default on the
    next ones that this process sees.

    `work` holds what a resumed call needs (tokenizer, tokens, weights, optimizer). It belongs to these texts and
    settings alone, and the caller removes it afterwards. `device` is "cpu" (float32) or "cuda" (bfloat16 products).

    `on_progress(tokens done, tokens in all, loss or None before the first step, latest held-out bits per byte or None)`
    is called about every second or after each micro-batch, whichever is later, but not while a model is compiled for a
    GPU, before the first loss; it may raise to abort. It is called with torch's modes, settings and random state as the
    caller has them, so it may run other work, such as a scoring: neither changes the other's results.

    Raises BadReference if there is no text, if the loss becomes infinite or NaN, if `source` cannot be trained on, or
    if there are not so many GPUs.
    """
    others: list[str] = []
    if device.startswith("cuda") and processes > 1:
        others = [*(visible_gpus()[1:] if gpus is None else gpus)][: processes - 1]
        if len(others) < processes - 1:
            raise BadReference(f"{processes} GPUs are asked for, and this host has {1 + len(others)}")
    work.mkdir(parents=True, exist_ok=True)
    given = None if source is None else initial(source)

    def beat() -> None:
        on_progress(0, tokens, None, None)

    start = _prepare(texts, preset or "tiny", given, tokens, work, beat)
    recipe, data = start.recipe, start.data
    name = optimizer or recipe.optimizer
    tokens = min(tokens, _PASSES * len(data.trained))
    distinct = min(len(data.trained), tokens)
    sequence = min(recipe.sequence, len(data.trained) - 1)
    micro = recipe.micro_gpu if device.startswith("cuda") else recipe.micro_cpu
    schedule = make_schedule(tokens, distinct, sequence, (recipe.batch, recipe.budget), micro, processes)
    settings: dict[str, Any] = {
        "preset": start.preset,
        "tokens": tokens,
        "seed": seed,
        "vocabulary": start.rows,
        "optimizer": name,
        "processes": processes,
        "batch_tokens": schedule.batch * sequence,
        "steps": schedule.steps,
        "weight_decay": schedule.weight_decay,
        "source": None if source is None else fingerprint(source).sha256,
    }
    job = Job(recipe, name, schedule, seed, start.rows, start.token, work, settings, device)
    heldout = HeldOut(data.heldout, data.heldout_sizes, start.token)
    beat()
    with replicas(processes, device, work, run_replica, job, others) as group:
        training = Training(job, group, heldout.sample(tokens // _SAMPLE))
        beat()
        loss = training.run(on_progress)
    inner = sum(p.numel() for p in training.model.module.parameters() if p.shape[0] != start.rows)
    latest = training.curve[-1][1] if training.curve else None
    summary = TrainingSummary(
        tokens=tokens,
        distinct_tokens=distinct,
        passes=tokens / distinct,
        heldout_bits_per_byte=training.bits_per_byte(heldout, lambda: on_progress(tokens, tokens, loss, latest)),
        heldout_documents=len(heldout.sizes),
        warning=too_little(tokens, inner),
        processes=processes,
    )
    said = settings | {"loss": loss, "heldout_curve": training.curve} | summary.model_dump()
    _save(training.model, said, start.tokenizer, folder)
    return summary


def most_processes(preset: Preset, tokens: int) -> int:
    """How many GPUs a training can keep busy: each gets a share of a batch that is not too small for it."""
    recipe = RECIPES[preset]
    schedule = make_schedule(tokens, tokens, recipe.sequence, (recipe.batch, recipe.budget), recipe.micro_gpu)
    return max(1, schedule.batch * recipe.sequence // _SHARE)


def _prepare(texts: Texts, preset: Preset, given: Initial | None, tokens: int, work: Path, beat: Beat) -> _Start:
    """Learns a tokenizer, or takes the given reference's, and writes the texts' tokens."""
    if given is not None:
        data = tokenize(texts, given.tokenizer(), tokens, work, beat, given.start)
        return _Start(given.preset, given.recipe, given.rows, given.start, data, given.copy_tokenizer)
    recipe = RECIPES[preset]
    tokenizer = train_tokenizer(texts, recipe.vocabulary, work / "tokenizer.json", beat)
    data = tokenize(texts, tokenizer, tokens, work, beat)
    rows = -(-tokenizer.get_vocab_size() // 16) * 16  # padded for the matrix units of GPUs
    return _Start(preset, recipe, rows, 0, data, lambda folder: save_tokenizer(work / "tokenizer.json", folder))


def _save(model: TrainingModel, training: dict[str, Any], tokenizer: Callable[[Path], None], folder: Path) -> None:
    """Writes the model folder; config.json last, because a folder without it is not taken for a model."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().float().cpu().contiguous() for name, p in model.module.named_parameters()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    tokenizer(folder)
    shutil.copymode(folder / "tokenizer.json", folder / WEIGHTS)  # safetensors makes files that only the owner reads
    (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    config = {"bos_token_id": 0, "eos_token_id": 0} | model.config | {"pad_token_id": None, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
