"""A reference model: finding it, a quick look at it without torch, and loading it with its tokenizer."""

from __future__ import annotations

import gc
import logging
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scorer.causal_lm.budget import halved, long_documents_per_pack, token_budget
from scorer.causal_lm.checkpoint import read_config, weight_files
from scorer.causal_lm.mamba2_config import is_mamba, parse_config
from scorer.errors import BadReference, OutOfMemory, one_line
from scorer.fingerprint import reference_sha256, tokenizer_sha256
from scorer.tokenizer.tokenizer import Tokenizer, check_vocabulary, read_fast

if TYPE_CHECKING:
    from scorer.causal_lm.mamba2 import Mamba2
    from scorer.causal_lm.transformer import Transformer

log = logging.getLogger("winnow.reference")
Dtype = Literal["auto", "float32", "bfloat16"]

# What a hub repository's snapshot may hold: weights in safetensors, never pickles, never code.
_FETCHED = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model"]
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_SECONDS = 5.0


@dataclass(frozen=True)
class Found:
    """The identity of a reference that was looked at."""

    sha256: str
    tokenizer_sha256: str


@dataclass
class Reference:
    """A loaded model and its tokenizer. `context` None: any length; `bos` None: no token to start after.

    `budget` is the number of positions that the model reads at once, at most, but for a longer window.
    """

    folder: Path
    model: Mamba2 | Transformer
    tokenizer: Tokenizer
    sha256: str
    tokenizer_sha256: str
    architecture: str
    parameters: int
    dtype: str
    device: str
    budget: int

    @property
    def context(self) -> int | None:
        """The most positions the model reads at once."""
        return self.model.context

    @property
    def recurrent(self) -> bool:
        """Whether the model reads a document of any length, in parts with its state carried on."""
        return self.context is None

    @property
    def bos(self) -> int | None:
        """The id that a document starts after."""
        return self.tokenizer.bos

    def provenance(self) -> dict[str, Any]:
        """What scores come from: nothing of time, host or path."""
        libraries = ["torch", "transformers", "tokenizers", *(["triton"] if self.device.startswith("cuda") else [])]
        return {
            "sha256": self.sha256,
            "tokenizer_sha256": self.tokenizer_sha256,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "context": self.context,
            "bos": self.bos,
            "dtype": self.dtype,
            "device": _device_kind(self.device),
            "budget": self.budget,
            "tokenizer": self.tokenizer.engine,
            "versions": {name: version(name) for name in libraries},
        }

    def check_stride(self, stride: int | None) -> None:
        """Raises BadReference for a stride that does not fit the model."""
        if stride is not None and self.context is not None and not 1 <= stride < self.context:
            raise BadReference(
                f"stride {stride} does not fit a context of {self.context} tokens: take 1 to {self.context - 1}"
            )

    def prepare(self) -> None:
        """On a GPU, has the model read a batch of the whole budget: all is compiled, loaded and allocated after it.

        Raises OutOfMemory.
        """
        if not self.device.startswith("cuda"):
            return
        import torch

        from kernels.pack import Pack
        from scorer.causal_lm.transformer import Transformer

        ids = torch.zeros(self.budget, dtype=torch.int64, device=self.device)
        most = self.budget if self.model.packed else 1024
        sizes = {min(self.context or most, most)}
        if self.recurrent and self.model.packed:
            sizes.add(self.budget // long_documents_per_pack(self.budget))
        with memory_errors(self):
            if isinstance(self.model, Transformer):
                self.model.compile(self.budget)
            for size in sizes:
                pack = Pack.of([min(size, self.budget - at) for at in range(0, self.budget, size)], self.device)
                _, state = self.model.nll(ids, ids, pack, keep_state=self.recurrent)
                if self.recurrent:  # also as in the middle of documents
                    self.model.nll(ids, ids, pack, state, keep_state=True)
            torch.cuda.synchronize(self.device)

    def halve(self) -> bool:
        """Halves the budget, for a device with too little memory; False where that does not help any more."""
        import torch

        while (smaller := halved(self.budget)) is not None:
            self.budget = smaller
            if self.device.startswith("cuda"):
                gc.collect()  # a compiler's failed run leaves cycles that hold tensors
                torch.cuda.empty_cache()
            if _prepared(self):
                log.warning("%s: too little memory; now %d tokens at a time", self.folder, self.budget)
                return True
        return False


@contextmanager
def memory_errors(reference: Reference) -> Iterator[None]:
    """Raises torch's out-of-memory errors inside as OutOfMemory, naming the reference and its budget."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        what = f"{reference.budget:,} tokens at a time"
        raise OutOfMemory(f"{reference.folder}: the device has too little memory for {what}") from None


def resolve(model: str) -> Path:
    """The local folder of a model: itself, or a snapshot of the hub id. Raises BadReference."""
    try:
        folder = Path(model).expanduser()
        if folder.is_dir():
            return folder
        taken = folder.exists()
    except (OSError, RuntimeError, ValueError):  # too long a name, a NUL, no such user
        raise BadReference(f"reference {model[:200]!r} is neither a folder nor a hub id") from None
    if taken:
        raise BadReference(f"reference {model!r} is a file; give the model's folder")
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise BadReference(f"reference {model!r}: there is no such folder")
    return _snapshot(model)


def _snapshot(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(
            snapshot_download(model, allow_patterns=_FETCHED, ignore_patterns=["*/*"], etag_timeout=_HUB_SECONDS)
        )
    except Exception as error:  # the hub client's own, and those of its transport
        raise BadReference(
            f"reference {model!r} is no folder here, nor can it be had from the hub; give a model folder"
            f" ({one_line(error)})"
        ) from None


def inspect(folder: Path) -> Found:
    """Looks whether the folder can be a reference, by its files and without torch. Raises BadReference."""
    config = read_config(folder)
    if is_mamba(config):
        parse_config(folder, config)
    elif not isinstance(config.get("model_type"), str):
        raise BadReference(f"{folder}: config.json names no model_type, nor is it a native Mamba-2 one")
    weight_files(folder)
    check_vocabulary(folder)
    if (bare := folder / "tokenizer.json").is_file():
        read_fast(bare)
    return Found(reference_sha256(folder), tokenizer_sha256(folder))


def load(folder: Path, device: str = "cpu", dtype: Dtype = "auto") -> Reference:
    """Loads a reference on `cpu` or `cuda`. `auto` is bfloat16 on a GPU and float32 on a CPU.

    Raises BadReference, and OutOfMemory where the device has no room for the model, or for a batch of any size.
    """
    import torch

    from scorer.causal_lm.mamba2 import load_mamba2
    from scorer.causal_lm.transformer import load_transformer

    found = inspect(folder)
    config = read_config(folder)
    precision = dtype if dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"
    loader = load_mamba2 if is_mamba(config) else load_transformer
    try:
        model: Mamba2 | Transformer = loader(folder, getattr(torch, precision), device)
    except torch.OutOfMemoryError:
        raise OutOfMemory(f"{folder}: the device has too little memory for this model") from None
    tokenizer = Tokenizer(folder)
    if tokenizer.largest >= model.vocab_size or (tokenizer.bos or 0) >= model.vocab_size:
        raise BadReference(
            f"{folder}: the tokenizer has ids up to {tokenizer.largest}, the model only {model.vocab_size} rows;"
            " put the tokenizer that it was trained with there"
        )
    parameters = _parameters(model)
    reference = Reference(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        sha256=found.sha256,
        tokenizer_sha256=found.tokenizer_sha256,
        architecture=str((config.get("architectures") or [config.get("model_type") or "mamba2"])[0]),
        parameters=parameters,
        dtype=precision,
        device=device,
        budget=token_budget(device.startswith("cuda"), parameters, model.context is None),
    )
    if not _prepared(reference) and not reference.halve():
        raise OutOfMemory(f"{folder}: the device has too little memory to score with this model")
    return reference


def _prepared(reference: Reference) -> bool:
    """Whether a batch fits into the memory; what one that does not has left there is free again afterwards."""
    try:
        reference.prepare()
    except OutOfMemory:
        return False
    return True


def _parameters(model: Mamba2 | Transformer) -> int:
    from scorer.causal_lm.transformer import Transformer

    return sum(p.numel() for p in (model.model if isinstance(model, Transformer) else model).parameters())


def _device_kind(device: str) -> str:
    """What scores may depend on: the GPU's name, or the CPU's architecture."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"cpu {platform.machine()}"
