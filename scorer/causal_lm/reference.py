"""A reference model: resolving its name, inspecting its folder without torch, and loading it with its tokenizer."""

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
from typing import TYPE_CHECKING, Any, Literal, Protocol

from scorer.causal_lm.budget import halved, long_documents_per_pack, token_budget
from scorer.causal_lm.checkpoint import check_quantization, check_weights, read_config
from scorer.causal_lm.mamba2_config import is_mamba, parse_config
from scorer.errors import BadReference, OutOfMemory, one_line
from scorer.fingerprint import ModelFingerprint, fingerprint
from scorer.tokenizer.tokenizer import Tokenizer, check_vocabulary, read_fast

if TYPE_CHECKING:
    import torch

    from scorer.causal_lm.fp8_trial import Fp8Trial
    from scorer.causal_lm.mamba2 import Mamba2
    from scorer.causal_lm.transformer import Transformer

log = logging.getLogger("winnow.reference")
Dtype = Literal["auto", "float32", "bfloat16", "fp8"]

# Files of a hub repository to fetch: weights in safetensors, never pickles, never code.
_FETCHED = ["*.json", "*.safetensors", "merges.txt", "vocab.txt", "*.model"]
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HUB_SECONDS = 5.0
_FAR = 1 << 21  # positions of a document after which attention carries all that it ever does


@dataclass
class Reference:
    """A loaded model and its tokenizer.

    `budget` is the most positions that the model reads at once, except for a window that is longer.
    """

    folder: Path
    model: Mamba2 | Transformer
    tokenizer: Tokenizer
    fingerprint: ModelFingerprint
    architecture: str
    parameters: int
    dtype: str
    device: str
    budget: int

    @property
    def context(self) -> int | None:
        """The most positions that the model can read; None for any number."""
        return self.model.context

    @property
    def recurrent(self) -> bool:
        """Whether the model reads a document of any length, in parts, with a state from part to part."""
        return self.context is None

    @property
    def bos(self) -> int | None:
        """The id before a document's first token; None if the tokenizer has no BOS and no EOS."""
        return self.tokenizer.bos

    def provenance(self) -> dict[str, Any]:
        """Everything that the scores depend on; no time, host or path."""
        libraries = ["torch", "transformers", "tokenizers", *(["triton"] if self.device.startswith("cuda") else [])]
        return {
            "sha256": self.fingerprint.sha256,
            "tokenizer_sha256": self.fingerprint.tokenizer_sha256,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "context": self.context,
            "bos": self.bos,
            "dtype": self.dtype,
            "device": device_kind(self.device),
            "budget": self.budget,
            "tokenizer": self.tokenizer.library,
            "versions": {name: version(name) for name in libraries},
        }

    def check_stride(self, stride: int | None) -> None:
        """Raises BadReference for a stride that does not fit the model."""
        if stride is not None and self.context is not None and not 1 <= stride < self.context:
            raise BadReference(
                f"stride {stride} does not fit a context of {self.context} tokens: take 1 to {self.context - 1}"
            )

    def prepare(self) -> None:
        """On a GPU, runs batches of the whole budget: afterwards kernels are compiled and memory is allocated.

        Raises OutOfMemory.
        """
        if not self.device.startswith("cuda"):
            return
        import torch

        from kernels.pack import Pack
        from scorer.causal_lm.transformer import Transformer

        ids = torch.zeros(self.budget, dtype=torch.int64, device=self.device)
        longest = self.budget if self.model.packed else 1024
        sizes = {min(self.context or longest, longest)}
        if self.recurrent:  # a model that is not packed carries the state of one document alone
            sizes.add(self.budget // long_documents_per_pack(self.budget) if self.model.packed else self.budget)
        with memory_errors(self):
            if isinstance(self.model, Transformer):
                self.model.compile(self.budget)
            for size in sizes:
                pack = Pack.of([min(size, self.budget - at) for at in range(0, self.budget, size)], self.device)
                carried = self.recurrent and (self.model.packed or len(pack.lengths) == 1)
                _, state = self.model.nll(ids, ids, pack, keep_state=carried)
                if state is not None:  # also as in the middle of documents, far from their beginning
                    state.read = [_FAR] * len(state.read)
                    self.model.nll(ids, ids, pack, state, keep_state=True)
            torch.cuda.synchronize(self.device)

    def halve(self) -> bool:
        """Halves the budget until a batch fits into the device's memory. False if no smaller budget does."""
        import torch

        while (smaller := halved(self.budget)) is not None:
            self.budget = smaller
            if self.device.startswith("cuda"):
                gc.collect()  # a compiler's failed run leaves reference cycles that hold tensors
                torch.cuda.empty_cache()
            if _fits(self):
                log.warning("%s: too little memory; the batch is now %d tokens", self.folder, self.budget)
                return True
        return False


class LoadedModel(Protocol):
    """A reference or a classifier, as far as errors name it."""

    folder: Path
    budget: int


@contextmanager
def memory_errors(model: LoadedModel) -> Iterator[None]:
    """Raises torch's out-of-memory errors inside as OutOfMemory, naming the model's folder and its budget."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        size = f"{model.budget:,} tokens at a time"
        raise OutOfMemory(f"{model.folder}: the device has too little memory for {size}") from None


def resolve(model: str, kind: str = "reference") -> Path:
    """The local folder of a model: the folder of that name, or else a snapshot of that hub id.

    `kind` names the model in errors. Raises BadReference.
    """
    try:
        folder = Path(model).expanduser()
        if folder.is_dir():
            return folder
        exists = folder.exists()
    except (OSError, RuntimeError, ValueError):  # the name is too long, has a NUL, or names an unknown user
        raise BadReference(f"{kind} {model[:200]!r} is neither a folder nor a hub id") from None
    if exists:
        raise BadReference(f"{kind} {model!r} is a file; give the model's folder")
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise BadReference(f"{kind} {model!r}: there is no such folder")
    return _snapshot(model, kind)


def _snapshot(model: str, kind: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        return Path(
            snapshot_download(model, allow_patterns=_FETCHED, ignore_patterns=["*/*"], etag_timeout=_HUB_SECONDS)
        )
    except Exception as error:  # the hub client's own, and those of its transport
        raise BadReference(
            f"{kind} {model!r} is not a folder here and cannot be fetched from the hub; give a model folder"
            f" ({one_line(error)})"
        ) from None


def inspect(folder: Path) -> ModelFingerprint:
    """Checks by its files, without torch, that the folder can be a reference. Raises BadReference."""
    config = read_config(folder)
    for name in config.get("architectures") or []:
        if str(name).endswith("ForSequenceClassification"):
            raise BadReference(f"{folder}: is a classifier ({name}), no language model; give it as a classifier")
    if is_mamba(config):
        parse_config(folder, config)
    elif not isinstance(config.get("model_type"), str):
        raise BadReference(f"{folder}: config.json has neither a model_type nor the fields of a native Mamba-2 model")
    check_quantization(folder, config)
    check_weights(folder)
    check_vocabulary(folder)
    if (path := folder / "tokenizer.json").is_file():
        read_fast(path)
    return fingerprint(folder)


def load(
    folder: Path, device: str = "cpu", dtype: Dtype = "auto", expected: ModelFingerprint | None = None
) -> Reference:
    """Loads a reference on `cpu` or `cuda`. `auto` is bfloat16 on a GPU and float32 on a CPU.

    Raises BadReference, also if the files are not the `expected` ones, or if fp8 would change the order of documents,
    and OutOfMemory if the device has no room for the model or for a batch of any size. The weights are read for their
    fingerprint once, before they are loaded.
    """
    import torch

    from scorer.causal_lm.fp8 import check_device
    from scorer.causal_lm.mamba2 import load_mamba2
    from scorer.causal_lm.transformer import load_transformer

    found = inspect(folder)
    check_unchanged(folder, found, expected)
    config = read_config(folder)
    precision = chosen_dtype(dtype, device)
    if precision == "fp8":
        check_device(device)
    loader = load_mamba2 if is_mamba(config) else load_transformer
    try:
        model: Mamba2 | Transformer = loader(folder, _stored_dtype(precision), device)
    except torch.OutOfMemoryError:
        raise OutOfMemory(f"{folder}: the device has too little memory for this model") from None
    tokenizer = Tokenizer(folder)
    check_ids(folder, max(tokenizer.largest, tokenizer.bos or 0), model.vocab_size)
    parameters = _parameters(model)
    reference = Reference(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        fingerprint=found,
        architecture=str((config.get("architectures") or [config.get("model_type") or "mamba2"])[0]),
        parameters=parameters,
        dtype=precision,
        device=device,
        budget=token_budget(device.startswith("cuda"), parameters, model.context is None),
    )
    trial = _quantized(reference) if precision == "fp8" else None
    if not _fits(reference) and not reference.halve():
        raise OutOfMemory(f"{folder}: the device has too little memory to score with this model")
    if trial is not None:
        with memory_errors(reference):
            trial.check(folder, reference.budget)
    return reference


def check_unchanged(folder: Path, found: ModelFingerprint, expected: ModelFingerprint | None) -> None:
    """Raises BadReference if the files are not the expected ones; None expects none."""
    if expected is not None and found != expected:
        raise BadReference(f"{folder}: the model has changed since it was chosen; start again, or restore its files")


def chosen_dtype(dtype: Dtype, device: str) -> str:
    """The data type of products; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    return dtype if dtype != "auto" else "bfloat16" if device.startswith("cuda") else "float32"


def _quantized(reference: Reference) -> Fp8Trial:
    """Makes a reference's products those of 8-bit factors; the trial knows how it scored before. Raises OutOfMemory."""
    from scorer.causal_lm.fp8_trial import Fp8Trial

    with memory_errors(reference):
        trial = Fp8Trial(reference.model, reference.tokenizer, reference.device)
        try:
            reference.model.quantize()
        except BadReference as error:
            raise BadReference(f"{reference.folder}: {error}") from None
    return trial


def _stored_dtype(precision: str) -> torch.dtype:
    """The data type in which weights are loaded."""
    import torch

    dtype: torch.dtype = getattr(torch, "bfloat16" if precision == "fp8" else precision)
    return dtype


def check_ids(folder: Path, largest: int, rows: int) -> None:
    """Raises BadReference if the tokenizer has ids, up to `largest`, for which the model has no row."""
    if largest >= rows:
        raise BadReference(
            f"{folder}: the tokenizer has ids up to {largest}, the model only {rows} rows;"
            " put the tokenizer that it was trained with there"
        )


def _fits(reference: Reference) -> bool:
    """Whether a batch of the whole budget fits into the device's memory. Memory of a failed attempt is free again."""
    try:
        reference.prepare()
    except OutOfMemory:
        return False
    return True


def _parameters(model: Mamba2 | Transformer) -> int:
    from scorer.causal_lm.transformer import Transformer

    return sum(p.numel() for p in (model.model if isinstance(model, Transformer) else model).parameters())


def device_kind(device: str) -> str:
    """The part of the device that scores may depend on: the GPU's name, or the CPU's architecture."""
    import torch

    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"cpu {platform.machine()}"
