"""Loads models on one device and keeps the latest ones. Torch is imported with the first one."""

import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from scorer.errors import BadReference
from scorer.fingerprint import ModelFingerprint
from scorer.process import tune_process

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Dtype, Reference

Loaded = TypeVar("Loaded")
log = logging.getLogger("winnow.models")
_KEPT = 4  # jobs take turns and have several models, so a worker may alternate between some
_REFERENCE = "reference"


class ModelLoader:
    """Loads models on a device; `auto` is a GPU if there is one."""

    def __init__(self, device: Literal["auto", "cpu", "cuda"]) -> None:
        tune_process()  # before torch is loaded
        self._wanted = device
        self._loaded: OrderedDict[tuple[str, ModelFingerprint, Dtype], Any] = OrderedDict()
        self._device: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether something has run on a GPU."""
        return self._device is not None and self._device.startswith("cuda")

    @property
    def known_device(self) -> str:
        """`cpu` or `cuda`, or "" while it is not known."""
        return self._device or ""

    def warm_up(self) -> None:
        """Imports what loading and scoring take, and begins to use the GPU if there is one."""
        import scorer.causal_lm.reference
        import scorer.engine.scoring  # noqa: F401

        try:
            device = self.device()
        except BadReference as error:  # the task that needs it fails with it too
            log.warning("%s", error)
            return
        if device == "cuda":
            import torch
            import torch._inductor.compile_fx
            from transformers import AutoModelForCausalLM  # noqa: F401

            torch.zeros((), device=device)  # makes the context

    def device(self) -> str:
        """`cpu` or `cuda`. Raises BadReference where a GPU was asked for and there is none."""
        if self._device is None:
            import torch

            # As many threads on every worker, whatever else runs: sums may depend on how work is divided. Torch itself
            # takes the number from OMP_NUM_THREADS.
            if "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(len(os.sched_getaffinity(0)))
            there = torch.cuda.is_available()
            if self._wanted == "cuda" and not there:
                raise BadReference("device cuda was asked for, and torch finds none on this machine: use --device cpu")
            self._device = "cuda" if there and self._wanted != "cpu" else "cpu"
        return self._device

    def has(self, model: ModelFingerprint, dtype: "Dtype") -> bool:
        """Whether a reference is loaded."""
        return self.has_by(_REFERENCE, model, dtype)

    def has_by(self, kind: str, model: ModelFingerprint, dtype: "Dtype") -> bool:
        """Whether a model of another kind is loaded."""
        return (kind, model, dtype) in self._loaded

    def get(self, model: ModelFingerprint, dtype: "Dtype", find: Callable[[], Path]) -> "Reference":
        """A reference; `find` gives its folder where it is not loaded.

        Raises BadReference where it cannot be loaded, or the folder holds another model.
        """
        from scorer.causal_lm.reference import load

        return self.get_by(_REFERENCE, model, dtype, lambda device: load(find(), device, dtype, expected=model))

    def get_by(self, kind: str, model: ModelFingerprint, dtype: "Dtype", load: Callable[[str], Loaded]) -> Loaded:
        """A model of another kind; `load` gets the device where it is not loaded. Raises what `load` does."""
        key = (kind, model, dtype)
        if key not in self._loaded:
            while len(self._loaded) >= _KEPT:
                self._loaded.popitem(last=False)
            self._loaded[key] = load(self.device())
        self._loaded.move_to_end(key)
        found: Loaded = self._loaded[key]
        return found
