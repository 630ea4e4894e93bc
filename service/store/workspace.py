"""The workspace: which file of a job lies where. It alone is the truth about a job."""

import errno
import hashlib
import json
import uuid
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from pruner.spec import SelectionSpec
from pruner.tables.storage import Storage
from service.contract.permissions import Access
from service.contract.schemas import JobRequest, Problem, Progress
from service.jobs.quotas import Quotas

Ended = Literal["succeeded", "failed", "cancelled"]
Model = TypeVar("Model", bound=BaseModel)
_ROOM_BYTES = 8192  # kept for each job's outcome, so that even a full disk can say that it is full


class JobRecord(BaseModel):
    """`jobs/<id>/job.json`: what was asked for, written before the job is accepted and never changed."""

    id: str
    created_at: datetime
    request: JobRequest
    owner: str | None = None  # whose job it is; None: whoever reaches a service that asks for no key
    access: Access = Access()
    quotas: Quotas = Quotas()  # those of the owner when the job was accepted


class ReferenceRecord(BaseModel):
    """Which reference scores. `folder` is what the user named, or a folder of the workspace if `trained`."""

    folder: str
    trained: bool
    sha256: str
    tokenizer_sha256: str


class PlanRecord(BaseModel):
    """`jobs/<id>/plan.json`, written when `plan.parquet` is there and the reference was checked."""

    started_at: datetime
    documents: int | None  # None while some file has no row counts
    shards: int
    text_bytes: int = 0  # about
    reference: ReferenceRecord | None  # of a named model
    trained: str | None  # else the name under references/ of the one to train


class Outcome(BaseModel):
    """`jobs/<id>/outcome.json`: how the job ended. The first one written stands."""

    status: Ended
    started_at: datetime | None
    finished_at: datetime
    progress: Progress
    error: Problem | None = None


class Workspace:
    """A folder or fsspec URL. Methods raise OSError as the storage does."""

    def __init__(self, url: str) -> None:
        self.storage = Storage(url)

    @cached_property
    def id(self) -> str:
        """A name made once for this workspace, whatever path each machine reaches it by."""
        if not self.storage.exists("workspace.json"):
            self.storage.create_new("workspace.json", _json({"id": uuid.uuid4().hex[:12]}))
        return str(self.storage.read_json("workspace.json")["id"])

    # -- a job's files, as paths inside the storage
    def folder(self, job_id: str) -> str:
        """Where everything about a job is."""
        return f"jobs/{job_id}"

    def path(self, job_id: str, name: str) -> str:
        """One of a job's files: `scores.parquet`, `rejects.jsonl`, `report.json`, …"""
        return f"jobs/{job_id}/{name}"

    def selection_path(self, job_id: str, selection_id: str, name: str) -> str:
        """One of a selection's files: `manifest.parquet`, `manifest.jsonl`, `selection.json`."""
        return f"jobs/{job_id}/selections/{selection_id}/{name}"

    def score_path(self, key: str, shard_digest: str) -> str:
        """The raw score file of a shard under a score key."""
        return f"scores/{key}/{shard_digest}.parquet"

    # -- jobs
    def create_job(self, record: JobRecord) -> bool:
        """Accepts a job; False if there is one of this id."""
        room = self.path(record.id, "room")
        if self.storage.local(room) is not None and not self.storage.exists(self.path(record.id, "job.json")):
            self.storage.write_bytes(room, bytes(_ROOM_BYTES))
        return self.storage.create_new(self.path(record.id, "job.json"), _model(record))

    def job(self, job_id: str) -> JobRecord | None:
        """What was asked for, or None if there is no such job."""
        return self._read(JobRecord, self.path(job_id, "job.json")) if _safe(job_id) else None

    def jobs(self) -> list[str]:
        """The ids of all jobs."""
        return self.storage.list("jobs")

    def plan_record(self, job_id: str) -> PlanRecord | None:
        """What planning found, or None while it has not ended."""
        return self._read(PlanRecord, self.path(job_id, "plan.json"))

    def write_plan_record(self, job_id: str, record: PlanRecord) -> None:
        """Ends the planning."""
        self.storage.write_bytes(self.path(job_id, "plan.json"), _model(record))

    def outcome(self, job_id: str) -> Outcome | None:
        """How the job ended, or None if it has not."""
        return self._read(Outcome, self.path(job_id, "outcome.json"))

    def end(self, job_id: str, outcome: Outcome) -> Outcome:
        """Ends the job, unless it has ended; returns the outcome that stands. On a full disk there is room for it."""
        path, room = self.path(job_id, "outcome.json"), self.path(job_id, "room")
        try:
            first = self.storage.create_new(path, _model(outcome))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self.storage.remove(room)
            first = self.storage.create_new(path, _model(outcome))
        self.storage.remove(room)
        return outcome if first else self.outcome(job_id) or outcome

    # -- references trained here
    def trained(self, name: str) -> ReferenceRecord | None:
        """A trained reference, or None while it is not there whole."""
        return self._read(ReferenceRecord, f"references/{name}/reference.json")

    def add_trained(self, name: str, record: ReferenceRecord) -> None:
        """Makes a trained reference known; the first of a name stands."""
        self.storage.create_new(f"references/{name}/reference.json", _model(record))

    def reference(self, plan: PlanRecord) -> ReferenceRecord | None:
        """The reference of a planned job, or None while it must be trained."""
        return plan.reference if plan.trained is None else self.trained(plan.trained)

    def known_reference(self, job_id: str) -> ReferenceRecord | None:
        """The reference of a job, or None while it is not planned or must be trained."""
        plan = self.plan_record(job_id)
        return None if plan is None else self.reference(plan)

    # -- selections
    def want(self, job_id: str, spec: SelectionSpec) -> None:
        """Asks for one more selection."""
        self.storage.write_bytes(self.selection_path(job_id, spec.id, "spec.json"), _model(spec))

    def wanted(self, record: JobRecord) -> list[SelectionSpec]:
        """The selections a job is to make: its request's, then the later ones by id; each id once."""
        specs = {spec.id: spec for spec in record.request.selections}
        for name in sorted(self.storage.list(self.path(record.id, "selections"))):
            if name not in specs:
                spec = self._read(SelectionSpec, self.selection_path(record.id, name, "spec.json"))
                if spec is not None:
                    specs[name] = spec
        return list(specs.values())

    def selections(self, job_id: str) -> int:
        """How many selections there are folders of, made or not."""
        return len(self.storage.list(self.path(job_id, "selections")))

    def selection(self, job_id: str, selection_id: str) -> dict[str, Any] | None:
        """What a made selection's `selection.json` says, or None while it is not made."""
        return self._read_json(self.selection_path(job_id, selection_id, "selection.json"))

    def selected(self, job_id: str) -> set[str]:
        """The ids of the selections that are made and in the report."""
        return set((self._read_json(self.path(job_id, "selected.json")) or {}).get("ids", ()))

    def results(self, job_id: str) -> dict[str, Any] | None:
        """What `results.json` says, written after the table of scores: `provenance`, `counts`, `progress`."""
        return self._read_json(self.path(job_id, "results.json"))

    def _read(self, model: type[Model], path: str) -> Model | None:
        try:
            return model.model_validate_json(self.storage.read_bytes(path))
        except FileNotFoundError:
            return None

    def _read_json(self, path: str) -> dict[str, Any] | None:
        try:
            return self.storage.read_json(path)
        except FileNotFoundError:
            return None


def digest(*parts: object) -> str:
    """A short hex name of some JSON values."""
    return hashlib.sha256(_json(parts)).hexdigest()[:32]


def _safe(name: str) -> bool:
    return bool(name) and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)


def _model(model: BaseModel) -> bytes:
    return model.model_dump_json(indent=1).encode() + b"\n"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
