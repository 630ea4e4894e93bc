"""The files of models: found on this machine or copied from a workspace, and loaded; and the folders of trainings."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.tables.lock import exclusive
from pruner.tables.storage import Storage
from scorer.causal_lm.reference import resolve
from scorer.engine.model_loader import ModelLoader
from scorer.errors import BadReference
from scorer.fingerprint import tokenizer_sha256
from service.kinds.node import Busy
from service.store.records import ModelRecord
from service.store.workspace import Workspace

if TYPE_CHECKING:
    from scorer.causal_lm.reference import Dtype, Reference
    from scorer.classifier.classifier import Classifier
    from scorer.tokenizer.tokenizer import Tokenizer

_CLASSIFIER = "classifier"  # the kind of the loaded models


def load(models: ModelLoader, workspace: Workspace, record: ModelRecord, dtype: "Dtype") -> "Reference":
    """A reference, loaded. Raises BadReference where it cannot be, or is not the one that was planned."""
    return models.get(record.fingerprint, dtype, lambda: find(workspace, record))


def load_classifier(models: ModelLoader, record: ModelRecord, dtype: "Dtype") -> "Classifier":
    """A classifier, loaded. Raises BadReference as `load` does."""
    from scorer.classifier.classifier import load

    folder = resolve(record.source, "classifier")
    return models.get_by(
        _CLASSIFIER, record.fingerprint, dtype, lambda device: load(folder, device, dtype, record.fingerprint)
    )


def has_classifier(models: ModelLoader, record: ModelRecord, dtype: "Dtype") -> bool:
    """Whether a classifier is loaded."""
    return models.has_by(_CLASSIFIER, record.fingerprint, dtype)


def tokenizer(workspace: Workspace, record: ModelRecord) -> "Tokenizer":
    """The tokenizer of a reference, without the model. Raises BadReference as `load` does."""
    return _tokenizer(find(workspace, record), record.tokenizer_sha256)


@lru_cache(maxsize=2)
def _tokenizer(folder: Path, sha256: str) -> "Tokenizer":
    from scorer.tokenizer.tokenizer import Tokenizer

    if tokenizer_sha256(folder) != sha256:
        raise BadReference(f"{folder}: the model has changed since it was chosen; start again, or restore its files")
    return Tokenizer(folder)


def find(workspace: Workspace, record: ModelRecord) -> Path:
    """The local folder of a reference, copied from a remote workspace first. Raises BadReference."""
    if not record.trained:
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


@contextmanager
def training_folder(storage: Storage, name: str) -> Iterator[Path]:
    """The local folder of a training's state, for this process alone; removed when the block ends without an exception.

    Raises Busy while another process of this machine has it.
    """
    folder = storage.local(f"training/{name}") or cache_folder() / "training" / name
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder / "lock"))
        except BlockingIOError:
            raise Busy from None
        yield folder
        shutil.rmtree(folder)


def cache_folder() -> Path:
    """A cache folder on this machine; losing it costs only time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "winnow"
