"""What a service's jobs may read: corpora under roots, models by name or under roots. Decided when a job is accepted.

A job takes what it may read along in its record, so that every worker of the pool holds to it.
"""

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pruner.corpus.paths import EVERYWHERE, Roots
from pruner.errors import InputError
from scorer.errors import BadReference
from service.contract.schemas import JobRequest

_NAMED = re.compile(r"([\w.-]+)=(.+)")


class Access(BaseModel):
    """What a job may read. None: all that the user may whose process it runs in."""

    model_config = ConfigDict(frozen=True)

    corpus_roots: tuple[str, ...] | None = None
    model_roots: tuple[str, ...] | None = None
    model: str | None = None  # the folder or hub id that the name of a configured model stands for

    @property
    def roots(self) -> Roots:
        """Where its corpus may lie."""
        return Roots(self.corpus_roots)

    def check_model(self, folder: Path) -> None:
        """Raises BadReference unless a local folder, and each file in it, is really under a root."""
        if self.model_roots is None or self.model is not None:
            return
        roots = [os.path.realpath(root) for root in self.model_roots]
        for path in (folder, *folder.iterdir()):
            real = os.path.realpath(path)
            if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots):
                raise BadReference(f"reference {path}: a link in it leads out of the model roots of this service")


class Rules(BaseModel):
    """What a service was told that its jobs may read."""

    model_config = ConfigDict(frozen=True)

    corpus_roots: tuple[str, ...] = EVERYWHERE
    model_roots: tuple[str, ...] | None = None  # None: any folder, and any model of the hub
    models: dict[str, str] = {}  # by name: the folder or hub id

    def admit(self, request: JobRequest) -> Access:
        """What a job of this request may read. Raises InputError if it asks for more."""
        roots = Roots(self.corpus_roots)
        for path in request.corpus.paths:
            roots.admit(path)
        return self.admit_model(request.reference.model).model_copy(update={"corpus_roots": self.corpus_roots})

    def admit_model(self, named: str | None) -> Access:
        """What may be read of a model that a call names, and no corpus. Raises InputError for one that is not there."""
        if named is not None and named in self.models:
            return Access(corpus_roots=(), model_roots=self.model_roots, model=self.models[named])
        if named is not None and self.model_roots is not None:
            path = os.path.abspath(os.path.expanduser(named))  # noqa: PTH100, PTH111 (no link is followed yet)
            inside = any(path == root or path.startswith(root.rstrip("/") + "/") for root in self.model_roots)
            if not inside or not named.startswith(("/", "~")) or ".." in named.split("/"):
                known = ", ".join([*self.models, *(f"a folder under {root}" for root in self.model_roots)])
                raise InputError(f"model {named!r} is none that this service has; give {known or 'none: train one'}")
        return Access(corpus_roots=(), model_roots=self.model_roots)


def named_model(text: str) -> tuple[str, str]:
    """The name and the source of a configured model: `NAME=SOURCE`, or a hub id that is its own name."""
    match = _NAMED.fullmatch(text)
    return (match[1], match[2]) if match else (text, text)
