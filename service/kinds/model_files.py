"""The files of references: found on this machine, or copied from a remote workspace, and loaded."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.tables.storage import Storage
from scorer.engine.model_loader import ModelLoader
from service.store.records import ModelRecord
from service.store.workspace import Workspace

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Dtype, Reference


def load(models: ModelLoader, workspace: Workspace, record: ModelRecord, dtype: "Dtype") -> "Reference":
    """A reference, loaded. Raises BadReference where it cannot be, or is not the one that was planned."""
    return models.get(record.fingerprint, dtype, lambda: find(workspace, record))


def find(workspace: Workspace, record: ModelRecord) -> Path:
    """The local folder of a reference, copied from a remote workspace first. Raises BadReference."""
    if not record.trained:
        from scorer.causal_lm.reference import resolve

        return resolve(record.source)
    local = workspace.storage.local(record.source)
    if local is not None:
        return local
    folder = cache_folder() / "references"
    kept = Storage(str(folder))
    for name in workspace.storage.list(record.source):
        path = f"{record.sha256}/{name}"
        if not kept.exists(path):
            workspace.storage.copy(f"{record.source}/{name}", kept, path)
    return folder / record.sha256


def cache_folder() -> Path:
    """A cache folder on this machine; losing it costs only time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "winnow"
