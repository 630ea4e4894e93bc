"""Which corpora and models a job may read: decided when the job is accepted, stored in its record for the workers."""

import os
import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pruner.corpus.paths import EVERYWHERE, Roots, is_below
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from scorer.errors import BadReference
from service.contract.schemas import JobRequest

_MODEL_OPTION = re.compile(r"([\w.-]+)=(.+)")


class Access(BaseModel):
    """What one job may read. A field that is None allows all that the operating system's user may read."""

    model_config = ConfigDict(frozen=True)

    corpus_roots: tuple[str, ...] | None = None
    model_roots: tuple[str, ...] | None = None
    model: str | None = None  # folder or hub id, if the request named a model of the service's settings
    scorers: dict[str, str] = {}  # the same of further scorers, by their names

    @property
    def roots(self) -> Roots:
        """The corpus roots, parsed."""
        return Roots(self.corpus_roots)

    def source(self, model: str, scorer: str | None = None) -> str:
        """The folder or hub id of a model that the request names: of the reference, or of a further scorer."""
        return (self.model if scorer is None else self.scorers.get(scorer)) or model

    def check_model(self, folder: Path, scorer: str | None = None) -> None:
        """Raises BadReference if a model folder or a file in it is a link to outside the model roots.

        The model is the reference, or that of a further scorer.
        """
        named = self.model if scorer is None else self.scorers.get(scorer)
        if self.model_roots is None or named is not None:
            return
        roots = [os.path.realpath(root) for root in self.model_roots]
        for path in (folder, *folder.iterdir()):
            real = os.path.realpath(path)
            if not any(is_below(real, root) for root in roots):
                raise BadReference(f"model {path}: a link points outside the model roots of this service")


class Rules(BaseModel):
    """What the jobs of a service may read, from its settings."""

    model_config = ConfigDict(frozen=True)

    corpus_roots: tuple[str, ...] = EVERYWHERE
    model_roots: tuple[str, ...] | None = None  # None: any folder, and any model of the hub
    models: dict[str, str] = {}  # name -> folder or hub id
    export_roots: tuple[str, ...] = ()  # that exports may be written to, besides the workspace

    def access_for(self, request: JobRequest) -> Access:
        """What the job of a request may read. Raises InputError if the request names anything else."""
        self.roots_for(request.corpus)
        scorers = {}
        for name, spec in request.scores.items():
            try:
                found = self.access_to_model(spec.model).model
            except InputError as error:
                raise InputError(f"scores.{name}: {error}") from None
            if found is not None:
                scorers[name] = found
        return self.access_to_model(request.model).model_copy(
            update={"corpus_roots": self.corpus_roots, "scorers": scorers}
        )

    def roots_for(self, corpus: CorpusSpec) -> Roots:
        """The corpus roots. Raises InputError if a path of the corpus does not lie under one."""
        roots = Roots(self.corpus_roots)
        for path in corpus.paths:
            roots.admit(path)
        return roots

    def check_out(self, out: str | None) -> None:
        """Raises InputError if an export may not be written to `out`; None is the workspace."""
        if out is None:
            return
        if not self.export_roots:
            raise InputError(f"{out}: this service writes exports to its workspace alone; leave out `out`")
        roots = Roots(self.export_roots, "an export root")
        path = roots.admit(out)
        if "://" not in path.url:
            roots.check_real(out, os.path.realpath(path.url))

    def access_to_model(self, model: str | None) -> Access:
        """Access to a model that a request names, and to no corpus. Raises InputError if the model is not allowed."""
        if model is not None and model in self.models:
            return Access(corpus_roots=(), model_roots=self.model_roots, model=self.models[model])
        if model is not None and self.model_roots is not None:
            path = os.path.abspath(os.path.expanduser(model))  # noqa: PTH100, PTH111 (links are checked by check_model)
            absolute = model.startswith(("/", "~")) and ".." not in model.split("/")
            if not absolute or not any(is_below(path, root) for root in self.model_roots):
                allowed = ", ".join([*self.models, *(f"a folder under {root}" for root in self.model_roots)])
                advice = f"use {allowed}" if allowed else "this service has no models, so let the job train a reference"
                raise InputError(f"unknown model {model!r}: {advice}")
        return Access(corpus_roots=(), model_roots=self.model_roots)


def parse_model_option(text: str) -> tuple[str, str]:
    """The name and the source of a model in the settings: `NAME=SOURCE`, or a hub id that is its own name."""
    match = _MODEL_OPTION.fullmatch(text)
    return (match[1], match[2]) if match else (text, text)
