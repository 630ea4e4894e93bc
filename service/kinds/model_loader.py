"""Loads references on a device, checks that they are the planned ones, and keeps them between tasks."""

import logging
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pruner.tables.storage import Storage
from scorer.errors import BadReference
from scorer.fingerprint import ModelFingerprint
from scorer.process import tune_process
from service.contract.names import Device
from service.store.records import ModelRecord
from service.store.workspace import Workspace

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Reference

log = logging.getLogger("winnow.models")
_KEPT = 2  # jobs take turns, so a worker may alternate between two references


class ModelLoader:
    """Loads references on a device. Torch is imported with the first one."""

    def __init__(self, workspace: Workspace, device: Device) -> None:
        tune_process()  # before torch is loaded
        self._workspace = workspace
        self._wanted = device
        self._loaded: OrderedDict[tuple[str, str], Reference] = OrderedDict()
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
        """Imports what loading and scoring take."""
        import scorer.causal_lm.reference
        import scorer.engine.scoring  # noqa: F401

        try:
            self.device()
        except BadReference as error:  # the task that needs it fails with it too
            log.warning("%s", error)

    def device(self) -> str:
        """`cpu` or `cuda`. Raises BadReference where a GPU was asked for and there is none."""
        if self._device is None:
            import torch

            # As many threads on every worker, whatever else runs: sums may depend on how work is divided.
            torch.set_num_threads(len(os.sched_getaffinity(0)))
            there = torch.cuda.is_available()
            if self._wanted == "cuda" and not there:
                raise BadReference("device cuda was asked for, and torch finds none on this machine: use --device cpu")
            self._device = "cuda" if there and self._wanted != "cpu" else "cpu"
        return self._device

    def has(self, record: ModelRecord, dtype: str) -> bool:
        """Whether a reference is loaded."""
        return (record.sha256, dtype) in self._loaded

    def get(self, record: ModelRecord, dtype: Literal["auto", "float32", "bfloat16"]) -> "Reference":
        """A reference, loaded. Raises BadReference where it cannot be, or is not the one that was planned."""
        import scorer.causal_lm.reference

        key = (record.sha256, dtype)
        if key not in self._loaded:
            while len(self._loaded) >= _KEPT:
                self._loaded.popitem(last=False)
            planned = ModelFingerprint(record.sha256, record.tokenizer_sha256)
            folder = find(self._workspace, record)
            self._loaded[key] = scorer.causal_lm.reference.load(folder, self.device(), dtype, expected=planned)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def find(workspace: Workspace, record: ModelRecord) -> Path:
    """The local folder of a reference, copied from a remote workspace first. Raises BadReference."""
    import scorer.causal_lm.reference

    if not record.trained:
        return scorer.causal_lm.reference.resolve(record.source)
    local = workspace.storage.local(record.source)
    if local is not None:
        return local
    folder = cache_folder() / "references"
    kept = Storage(str(folder))
    for name in workspace.storage.list(record.source):
        path = f"{record.sha256}/{name}"
        if not kept.exists(path):
            with workspace.storage.open(f"{record.source}/{name}") as source, kept.create(path) as target:
                shutil.copyfileobj(source, target)
    return folder / record.sha256


def cache_folder() -> Path:
    """A cache folder on this machine; losing it costs only time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "winnow"
