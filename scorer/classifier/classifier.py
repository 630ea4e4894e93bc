"""A classifier: a sequence-classification folder with one output, inspected without torch, and loaded."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scorer.causal_lm.budget import halved, token_budget
from scorer.causal_lm.checkpoint import check_quantization, check_weights, read_config
from scorer.causal_lm.reference import Dtype, check_ids, check_unchanged, chosen_dtype, device_kind
from scorer.errors import BadReference, OutOfMemory, one_line
from scorer.fingerprint import ModelFingerprint, fingerprint
from scorer.tokenizer.tokenizer import check_vocabulary

if TYPE_CHECKING:
    from scorer.classifier.forward import ClassifierModel
    from scorer.classifier.windows import WindowTokenizer

_ARCHITECTURE = "ForSequenceClassification"
_DEFAULT_OUTPUTS = 2  # of transformers, where config.json says nothing


@dataclass
class Classifier:
    """A loaded model and its tokenizer. `budget` is the most positions of a batch, except for a longer window."""

    folder: Path
    model: ClassifierModel
    tokenizer: WindowTokenizer
    fingerprint: ModelFingerprint
    architecture: str
    parameters: int
    dtype: str
    device: str
    budget: int

    def provenance(self) -> dict[str, Any]:
        """Everything that the values depend on; no time, host or path."""
        libraries = ["torch", "transformers", "tokenizers", *(["triton"] if self.device.startswith("cuda") else [])]
        return {
            "sha256": self.fingerprint.sha256,
            "tokenizer_sha256": self.fingerprint.tokenizer_sha256,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "window": self.tokenizer.limit,
            "packed": self.model.packed,
            "dtype": self.dtype,
            "device": device_kind(self.device),
            "budget": self.budget,
            "tokenizer": self.tokenizer.library,
            "versions": {name: version(name) for name in libraries},
        }

    def halve(self) -> bool:
        """Halves the budget. False if a smaller one would not help."""
        import torch

        smaller = halved(self.budget)
        if smaller is None:
            return False
        self.budget = smaller
        if self.device.startswith("cuda"):
            gc.collect()
            torch.cuda.empty_cache()
        self.prepare()
        return True

    def prepare(self) -> None:
        """On a GPU, compiles the model for batches of the whole budget, if the memory is large enough for that."""
        import torch

        if not self.device.startswith("cuda"):
            return
        try:
            self.model.compile(self.budget)
        except torch.OutOfMemoryError:  # scoring meets it too, and halves the budget
            gc.collect()
            torch.cuda.empty_cache()


def inspect(folder: Path) -> ModelFingerprint:
    """Checks by its files, without torch, that the folder can be a classifier. Raises BadReference."""
    config = read_config(folder)
    named = config.get("architectures") or []
    if not any(isinstance(name, str) and name.endswith(_ARCHITECTURE) for name in named):
        there = ", ".join(map(str, named)) or "none"
        raise BadReference(f"{folder}: is no sequence-classification model (its architectures: {there})")
    labels = config.get("id2label")
    outputs = len(labels) if isinstance(labels, dict) else config.get("num_labels", _DEFAULT_OUTPUTS)
    if outputs != 1:
        raise BadReference(f"{folder}: the classifier has {outputs} outputs; give one with a single output")
    check_quantization(folder, config)
    check_weights(folder)
    check_vocabulary(folder)
    return fingerprint(folder)


def load(
    folder: Path, device: str = "cpu", dtype: Dtype = "auto", expected: ModelFingerprint | None = None
) -> Classifier:
    """Loads a classifier on `cpu` or `cuda`. `auto` is bfloat16 on a GPU and float32 on a CPU.

    `fp8` is for references: a classifier beside one runs in bfloat16. Raises BadReference, also if the files are not
    the `expected` ones, and OutOfMemory.
    """
    import torch

    from scorer.classifier.windows import WindowTokenizer

    found = inspect(folder)
    check_unchanged(folder, found, expected)
    precision = chosen_dtype("bfloat16" if dtype == "fp8" else dtype, device)
    try:
        model, tokenizer = _load_model(folder, getattr(torch, precision), device, WindowTokenizer)
    except torch.OutOfMemoryError:
        raise OutOfMemory(f"{folder}: the device has too little memory for this model") from None
    check_ids(folder, tokenizer.largest, model.rows)
    parameters = sum(p.numel() for p in model.model.parameters())
    classifier = Classifier(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        fingerprint=found,
        architecture=type(model.model).__name__,
        parameters=parameters,
        dtype=precision,
        device=device,
        budget=token_budget(device.startswith("cuda"), parameters, recurrent=False),
    )
    classifier.prepare()
    return classifier


def _load_model(
    folder: Path, dtype: Any, device: str, make_tokenizer: type[WindowTokenizer]
) -> tuple[ClassifierModel, WindowTokenizer]:
    import torch
    from transformers import AutoModelForSequenceClassification

    from scorer.causal_lm.capabilities import TRIAL_ERRORS, find_context
    from scorer.causal_lm.transformer import load_pretrained
    from scorer.classifier.forward import ClassifierModel
    from scorer.hf_logging import silent

    with silent():
        model = load_pretrained(AutoModelForSequenceClassification, folder, dtype, device, "a classifier")
        tokenizer = make_tokenizer(folder, find_context(model))
        try:
            return ClassifierModel(model, tokenizer.pad, packs=device.startswith("cuda")), tokenizer
        except torch.OutOfMemoryError:
            raise
        except TRIAL_ERRORS as error:
            raise BadReference(f"{folder}: the model does not read plain text ({one_line(error)})") from None
