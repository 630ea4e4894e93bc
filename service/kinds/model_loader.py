"""The references that a worker has loaded: found, checked against what was planned, and kept warm between shards."""

import logging
import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pruner.tables.storage import Storage
from scorer.errors import BadReference
from scorer.fingerprint import ModelFingerprint
from service.run.settings import Device
from service.store.workspace import ReferenceRecord, Workspace

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Reference

log = logging.getLogger("winnow.references")
_KEPT = 2  # jobs take turns, so a worker may go to and fro between two references


class References:
    """Loads references on a device; torch is imported by the first that is asked for."""

    def __init__(self, workspace: Workspace, device: Device) -> None:
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
        """`cpu` or `cuda`, or "" while nobody has asked."""
        return self._device or ""

    def warm_up(self) -> None:
        """Imports what loading and scoring take."""
        import scorer.causal_lm.reference
        import scorer.engine.scoring  # noqa: F401

        try:
            self.device()
        except BadReference as error:  # a job that needs it says so too
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

    def has(self, record: ReferenceRecord, dtype: str) -> bool:
        """Whether `get` would give it at once."""
        return (record.sha256, dtype) in self._loaded

    def get(self, record: ReferenceRecord, dtype: Literal["auto", "float32", "bfloat16"]) -> "Reference":
        """The planned reference, loaded. Raises BadReference where it cannot be or is another than was planned."""
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


def find(workspace: Workspace, record: ReferenceRecord) -> Path:
    """The local folder of a planned reference, fetched if need be. Raises BadReference."""
    import scorer.causal_lm.reference

    if not record.trained:
        return scorer.causal_lm.reference.resolve(record.folder)
    local = workspace.storage.local(record.folder)
    if local is not None:
        return local
    folder = cache_folder() / "references"
    kept = Storage(str(folder))
    for name in workspace.storage.list(record.folder):
        path = f"{record.sha256}/{name}"
        if not kept.exists(path):
            with workspace.storage.open(f"{record.folder}/{name}") as source, kept.create(path) as target:
                shutil.copyfileobj(source, target)
    return folder / record.sha256


def cache_folder() -> Path:
    """A folder of this machine for what a remote workspace has no place for; losing it costs only time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "winnow"
