"""Trains a reference on text and saves it as a Hugging Face model folder; a killed training resumes.

The same texts, preset, token count and seed give the same weights on one machine, killed or not. Knows no corpus.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kernels.nll import mean_nll, token_nll
from kernels.pack import IGNORED
from scorer.causal_lm.checkpoint import WEIGHTS
from scorer.errors import BadReference
from scorer.training.names import Preset
from scorer.training.presets import RECIPES, Recipe, TrainingModel
from scorer.training.summary import TrainingSummary, too_little
from scorer.training.tokens import Texts, TrainingTokens, save_tokenizer, tokenize, train_tokenizer

# Up to four times, repeated text teaches nearly as much as new (Muennighoff et al., https://arxiv.org/abs/2305.16264).
# After eight passes a tiny reference of 57,000 tokens had twice the perplexity on new text that it had after four.
_PASSES = 4
_SAVE_SECONDS = 20.0  # between two checkpoints, at least, and 20 times what writing one takes
_WARM_UP = 0.05  # share of the steps
_WEIGHT_DECAY = 0.1
_BETAS = (0.9, 0.95)
_CLIP = 1.0
_LOSS_STEPS = 50  # that the reported loss averages over, roughly

OnProgress = Callable[[int, int, float | None], None]


def train(
    texts: Texts, preset: Preset, tokens: int, seed: int, folder: Path, work: Path, device: str, on_progress: OnProgress
) -> TrainingSummary:
    """Trains a preset on `tokens` tokens of the texts, repeats included, and saves it in `folder`.

    `texts` gives an iterator over the documents at each call, always the same ones in the same order; a second thread
    reads it while the tokenizer learns. Every 20th document is not learnt from, and measures the loss in the end. The
    first `tokens` tokens of the others are used, in a seeded order; if there are fewer, they are used again in another
    order, four times at most. So give a mixed sample, not file after file.

    `work` holds what a resumed call needs (tokenizer, tokens, weights, optimizer). It belongs to these texts and
    settings alone, and the caller removes it afterwards. `device` is "cpu" (float32) or "cuda" (bfloat16 products).

    `on_progress(tokens done, tokens in all, loss or None before the first step)` is called about every second or after
    each small batch, whichever is later, and may raise to abort. It is called with torch's modes, settings and random
    state as the caller has them, so it may run other work, such as a scoring: neither changes the other's results.

    Raises BadReference if there is no text, or if the loss becomes infinite or NaN.
    """
    work.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[preset]

    def beat() -> None:
        on_progress(0, tokens, None)

    tokenizer = train_tokenizer(texts, recipe.vocabulary, work / "tokenizer.json", beat)
    data = tokenize(texts, tokenizer, tokens, work, beat)
    tokens = min(tokens, _PASSES * len(data.trained))
    rows = -(-tokenizer.get_vocab_size() // 16) * 16  # padded for the matrix units of GPUs
    beat()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's only: weights are drawn there
        model = recipe.build(rows)
    beat()
    settings: dict[str, int | str] = {"preset": preset, "tokens": tokens, "seed": seed, "vocabulary": rows}
    training = _Training(model, recipe, data.trained, settings, work / "checkpoint.safetensors", device)
    loss = training.run(on_progress)
    inner = sum(p.numel() for p in model.module.parameters() if p.shape[0] != rows)
    distinct = min(len(data.trained), tokens)
    summary = TrainingSummary(
        tokens=tokens,
        distinct_tokens=distinct,
        passes=tokens / distinct,
        heldout_bits_per_byte=training.bits_per_byte(data, lambda: on_progress(tokens, tokens, loss)),
        heldout_documents=data.heldout_documents,
        warning=too_little(tokens, inner),
    )
    _save(model, settings | {"loss": loss} | summary.model_dump(), work / "tokenizer.json", folder)
    return summary


class _Training:
    """One training, from its last checkpoint to its end."""

    def __init__(
        self,
        model: TrainingModel,
        recipe: Recipe,
        data: NDArray[np.uint16],
        settings: dict[str, int | str],
        checkpoint: Path,
        device: str,
    ) -> None:
        self.model, self.recipe, self.data, self.device = model, recipe, data, device
        self.settings, self.checkpoint = settings, checkpoint
        model.module.to(device).train()
        self.parameters = dict(model.module.named_parameters())
        matrices = [p for p in self.parameters.values() if p.dim() == 2]
        others = [p for p in self.parameters.values() if p.dim() != 2]  # norms, biases, convolutions, decay rates
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}],
            betas=_BETAS,
            fused=True,
        )
        self.loss = 0.0
        self.tokens, self.seed = int(settings["tokens"]), int(settings["seed"])
        self.sequence = min(recipe.sequence, len(data) - 1)
        self.rows = (len(data) - 1) // self.sequence
        self.steps = -(-self.tokens // (recipe.batch * self.sequence))
        self.micro = recipe.micro_gpu if device.startswith("cuda") else recipe.micro_cpu

    def run(self, on_progress: OnProgress) -> float:
        """Takes the steps that are left. Returns a running mean of the loss in nats a token, the same if resumed."""
        saved_at, save_took = time.monotonic(), 0.0
        for step in range(self._restore(), self.steps):
            loss = self._step(step, on_progress)
            if not math.isfinite(loss):
                raise BadReference(f"training diverged at step {step + 1}; try another seed")
            self.loss += (loss - self.loss) / min(step + 1, _LOSS_STEPS)
            now = time.monotonic()
            if now - saved_at > max(_SAVE_SECONDS, 20 * save_took) and step + 1 < self.steps:
                self._store(step + 1)
                saved_at = time.monotonic()
                save_took = saved_at - now
        return self.loss

    def _step(self, step: int, on_progress: OnProgress) -> float:
        """One step of the optimizer on `batch` sequences, a few at a time. Returns their mean loss."""
        rate = self.recipe.learning_rate * self._schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self._batch(step)
        loss = torch.zeros((), device=self.device)
        for start in range(0, len(batch), self.micro):
            part = batch[start : start + self.micro].to(self.device)
            share = len(part) / len(batch)
            with _deterministic(self.device):
                loss += self._backward(part, share)
            done = (step * len(batch) + start + len(part)) * self.sequence
            on_progress(min(done, self.tokens), self.tokens, loss.item() * len(batch) / (start + len(part)))
        with _deterministic(self.device):
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), _CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.item()

    def bits_per_byte(self, data: TrainingTokens, beat: Callable[[], None]) -> float | None:
        """The loss on the held-out documents, in sequences as in training; None if there are none."""
        run = torch.from_numpy(data.heldout.astype(np.int64))
        if not data.heldout_bytes:
            return None
        total = 0.0
        for start in range(0, len(run) - 1, self.sequence):
            ids = run[start : start + self.sequence + 1][None].to(self.device)
            targets = ids[0, 1:].masked_fill(ids[0, 1:] == 0, IGNORED)  # the ends of documents are no text
            with torch.no_grad(), _deterministic(self.device):
                hidden = self._hidden(ids[:, :-1])[0]
                total += token_nll(hidden, self.model.head.to(hidden.dtype), targets).double().sum().item()
            beat()
        return total / math.log(2) / data.heldout_bytes

    def _hidden(self, ids: Tensor) -> Tensor:
        """The hidden states of ids [B, T], [B, T, D] in bfloat16 on a GPU, else float32."""
        narrow = self.device.startswith("cuda")
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=narrow):
            hidden = self.model.hidden(ids)
        return hidden.bfloat16() if narrow else hidden

    def _backward(self, sequences: Tensor, share: float) -> Tensor:
        """Adds the gradients of `share` times the mean NLL of sequences [B, T+1]; returns that value."""
        hidden = self._hidden(sequences[:, :-1])
        loss = share * mean_nll(hidden.flatten(0, 1), self.model.head, sequences[:, 1:].flatten())
        loss.backward()
        return loss.detach()

    def _batch(self, step: int) -> Tensor:
        """The step's sequences [batch, T+1] int64: rows of the tokens, in a new seeded order each epoch."""
        first = step * self.recipe.batch
        wanted = range(first, first + self.recipe.batch)
        orders = {e: self._order(e) for e in {i // self.rows for i in wanted}}
        starts = [int(orders[i // self.rows][i % self.rows]) * self.sequence for i in wanted]
        return torch.from_numpy(np.stack([self.data[s : s + self.sequence + 1] for s in starts]).astype(np.int64))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        return np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.rows)

    def _schedule(self, step: int) -> float:
        """The factor of the learning rate: linear warm-up, then a cosine to zero."""
        warm = max(1, round(_WARM_UP * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))

    def _store(self, step: int) -> None:
        """Writes weights and optimizer state after `step` steps, the whole file or none."""
        tensors = {f"weight.{name}": p.detach() for name, p in self.parameters.items()}
        for name, p in self.parameters.items():
            tensors |= {f"{key}.{name}": value for key, value in self.optimizer.state[p].items()}
        partial = self.checkpoint.with_suffix(".part")
        save_file(tensors, partial, {"step": str(step), "loss": repr(self.loss), "settings": json.dumps(self.settings)})
        partial.replace(self.checkpoint)

    def _restore(self) -> int:
        """Loads the last checkpoint of the same settings, if there is one. Returns the number of steps taken."""
        if not self.checkpoint.exists():
            return 0
        with safe_open(self.checkpoint, "pt") as stored:
            metadata: dict[str, str] = stored.metadata()
            if metadata["settings"] != json.dumps(self.settings):
                return 0
            with torch.no_grad():
                for name, p in self.parameters.items():
                    p.copy_(stored.get_tensor(f"weight.{name}"))
                    self.optimizer.state[p] = {
                        key: stored.get_tensor(f"{key}.{name}").to(self.device)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }
        self.loss = float(metadata["loss"])
        return int(metadata["step"])


@contextlib.contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Inside, torch takes its deterministic kernels on a GPU; afterwards its settings are as before.

    On a CPU its kernels are deterministic anyway. cuBLAS is so on one stream, whatever its workspace, so the warning
    that CUBLAS_WORKSPACE_CONFIG is not set is ignored.
    """
    if not device.startswith("cuda"):
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _save(model: TrainingModel, training: dict[str, Any], tokenizer_file: Path, folder: Path) -> None:
    """Writes the model folder; config.json last, because a folder without it is not taken for a model."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().float().cpu().contiguous() for name, p in model.module.named_parameters()}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    save_tokenizer(tokenizer_file, folder)
    shutil.copymode(folder / "tokenizer.json", folder / WEIGHTS)  # safetensors makes files that only the owner reads
    (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    config = model.config | {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
