"""The workspace: which file of a job lies where. It alone is the truth about a job.

workspace.json                   its name and the format of its files
keys/                            API keys
jobs/<id>/                       job.json, outcome.json, corpus.json, model.json, selections/<id>.json,
                                 exports/<id>.json, failed-exports/<id>.json, the same of ablations
<kind>/<key>/…                   artefacts, shared by all jobs: see service/kinds
training/<key>/                  the state of trainings that are under way
"""

import errno
import hashlib
import json
import uuid
from copy import copy
from functools import cached_property

from pruner.errors import InputError
from pruner.spec import SelectionSpec
from pruner.tables.record_store import RecordStore
from pruner.tables.records import parse_record
from pruner.tables.storage import Storage
from service.contract.schemas import Problem
from service.store.records import (
    FailedAblation,
    FailedExport,
    JobRecord,
    Outcome,
    WantedAblation,
    WantedExport,
    WantedSelection,
    WorkspaceRecord,
)

_ROOM_BYTES = 8192  # reserved for each job's outcome, so that a full disk can still take it


class Workspace:
    """A folder or fsspec URL. Methods raise OSError as the storage does."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)
        self.records = RecordStore(self.storage)

    @cached_property
    def id(self) -> str:
        """The workspace's name. Raises InputError for a workspace of another version."""
        if not self.storage.exists("workspace.json"):
            self.records.write_new("workspace.json", WorkspaceRecord(id=uuid.uuid4().hex[:12]))
        data = self.storage.read_bytes("workspace.json")
        try:
            is_old = json.loads(data).get("format") is None
        except (ValueError, AttributeError):
            is_old = False  # it is damaged, as is said below
        if is_old:
            raise InputError(
                f"{self.storage.url}: a workspace of Winnow 0.1.0, whose jobs this version cannot read. Choose a new "
                "folder and submit the jobs again, or remove the old one; 0.1.0 still reads it"
            )
        return parse_record(data, WorkspaceRecord, f"{self.storage.url}/workspace.json").id

    @cached_property
    def without_damaged(self) -> "Workspace":
        """The same workspace, as if damaged records were not there: to end a job because of one, and to show it."""
        made = copy(self)
        made.records = RecordStore(self.storage, damaged_are_missing=True)
        return made

    # -- jobs
    def folder(self, job_id: str) -> str:
        """The folder of a job."""
        return f"jobs/{job_id}"

    def path(self, job_id: str, name: str) -> str:
        """One of a job's files: `job.json`, `corpus.json`, …"""
        return f"jobs/{job_id}/{name}"

    def create_job(self, record: JobRecord) -> bool:
        """Accepts a job; False if there is one of this id."""
        room = self.path(record.id, "room")
        if self.storage.local(room) is not None and not self.storage.exists(self.path(record.id, "job.json")):
            self.storage.write_bytes(room, bytes(_ROOM_BYTES))
        return self.records.write_new(self.path(record.id, "job.json"), record)

    def job(self, job_id: str) -> JobRecord | None:
        """The accepted request, or None if there is no such job."""
        return self.records.read(JobRecord, self.path(job_id, "job.json")) if _safe(job_id) else None

    def jobs(self) -> list[str]:
        """The ids of all jobs."""
        return self.storage.list("jobs")

    def outcome(self, job_id: str) -> Outcome | None:
        """How the job ended, or None if it has not."""
        return self.records.read(Outcome, self.path(job_id, "outcome.json"))

    def end(self, job_id: str, outcome: Outcome) -> Outcome:
        """Ends the job, unless it has ended; returns the outcome that stands. On a full disk there is room for it."""
        path, room = self.path(job_id, "outcome.json"), self.path(job_id, "room")
        try:
            first = self.records.write_new(path, outcome)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.storage.remove(room)
            first = self.records.write_new(path, outcome)
        self.storage.remove(room)
        return outcome if first else self.outcome(job_id) or outcome

    # -- selections
    def want(self, job_id: str, spec: SelectionSpec) -> None:
        """Asks for one more selection."""
        self.records.write(self.path(job_id, f"selections/{spec.id}.json"), WantedSelection(spec=spec))

    def unwant(self, job_id: str, selection_id: str) -> None:
        """Forgets a selection that was asked for later."""
        self.storage.remove(self.path(job_id, f"selections/{selection_id}.json"))

    def wanted(self, record: JobRecord) -> list[SelectionSpec]:
        """The selections a job is to make: its request's, then the later ones by id; each id once."""
        if record.scores_only:
            return []
        specs = {spec.id: spec for spec in record.request.selections}
        for name in self.storage.list(self.path(record.id, "selections")):
            later = self.records.recall(WantedSelection, self.path(record.id, f"selections/{name}"), record.created_at)
            if later is not None:
                specs.setdefault(later.spec.id, later.spec)
        return list(specs.values())

    # -- exports
    def want_export(self, job_id: str, wanted: WantedExport) -> None:
        """Asks for an export; one that has failed is tried again."""
        self.storage.remove(self.path(job_id, f"failed-exports/{wanted.id}.json"))
        self.records.write_new(self.path(job_id, f"exports/{wanted.id}.json"), wanted)

    def unwant_export(self, job_id: str, export_id: str) -> None:
        """Forgets an export."""
        self.storage.remove(self.path(job_id, f"exports/{export_id}.json"))

    def unwant_exports(self, record: JobRecord) -> None:
        """Forgets all exports of a job. What is done of them stays, for when they are asked for again."""
        for wanted in self.exports(record):
            self.unwant_export(record.id, wanted.id)

    def exports(self, record: JobRecord) -> list[WantedExport]:
        """The exports that a job was asked for, by id."""
        names = self.storage.list(self.path(record.id, "exports"))
        paths = [self.path(record.id, f"exports/{name}") for name in names]
        found = [self.records.recall(WantedExport, path, record.created_at) for path in paths]
        return [wanted for wanted in found if wanted is not None]

    def fail_export(self, job_id: str, export_id: str, problem: Problem) -> None:
        """Notes why an export cannot be made."""
        self.records.write(self.path(job_id, f"failed-exports/{export_id}.json"), FailedExport(error=problem))

    def failed_exports(self, job_id: str) -> dict[str, Problem]:
        """Why exports cannot be made, by id."""
        names = self.storage.list(self.path(job_id, "failed-exports"))
        records = {name: self.records.read(FailedExport, self.path(job_id, f"failed-exports/{name}")) for name in names}
        return {name.removesuffix(".json"): found.error for name, found in records.items() if found is not None}

    # -- ablations
    def want_ablation(self, job_id: str, wanted: WantedAblation) -> None:
        """Asks for an ablation; one that has failed or was cancelled goes on."""
        self.storage.remove(self.path(job_id, f"failed-ablations/{wanted.id}.json"))
        self.records.write_new(self.path(job_id, f"ablations/{wanted.id}.json"), wanted)

    def unwant_ablations(self, record: JobRecord) -> None:
        """Forgets all ablations of a job. What is done of them stays, for when they are asked for again."""
        for wanted in self.ablations(record):
            self.storage.remove(self.path(record.id, f"ablations/{wanted.id}.json"))

    def ablations(self, record: JobRecord) -> list[WantedAblation]:
        """The ablations that a job was asked for, by id."""
        names = self.storage.list(self.path(record.id, "ablations"))
        paths = [self.path(record.id, f"ablations/{name}") for name in names]
        found = [self.records.recall(WantedAblation, path, record.created_at) for path in paths]
        return [wanted for wanted in found if wanted is not None]

    def fail_ablation(self, job_id: str, ablation_id: str, problem: Problem | None) -> None:
        """Notes why an ablation is not made; None: it was cancelled. The first reason stands."""
        self.records.write_new(self.path(job_id, f"failed-ablations/{ablation_id}.json"), FailedAblation(error=problem))

    def failed_ablations(self, job_id: str) -> dict[str, FailedAblation]:
        """Why ablations are not made, by id."""
        names = self.storage.list(self.path(job_id, "failed-ablations"))
        paths = {name.removesuffix(".json"): self.path(job_id, f"failed-ablations/{name}") for name in names}
        records = {name: self.records.read(FailedAblation, path) for name, path in paths.items()}
        return {name: found for name, found in records.items() if found is not None}


def digest(*parts: object) -> str:
    """A hex name of some JSON values, 32 digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def _safe(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
