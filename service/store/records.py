"""The records that a workspace stores about jobs: pydantic models, each with the version of its format."""

import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Literal

from pydantic import Field

from pruner.corpus.listing import LeftOut
from pruner.spec import SelectionSpec
from pruner.tables.records import Record
from scorer.fingerprint import ModelFingerprint
from scorer.training.summary import TrainingSummary
from service.contract.ablations import AblationOptions
from service.contract.names import Status
from service.contract.permissions import Access
from service.contract.quotas import Quotas
from service.contract.schemas import ExportOptions, JobRequest, Problem, Progress

Ended = Literal["succeeded", "failed", "cancelled"]


class JobRecord(Record):
    """`jobs/<id>/job.json`: the accepted request, written before the job is answered and never changed."""

    id: str
    created_at: datetime
    request: JobRequest
    owner: str | None = None  # id of the key that submitted it; None on a service without keys
    access: Access = Access()
    quotas: Quotas = Quotas()  # those of the owner when the job was accepted
    scores_only: bool = False  # no selections and no report
    ignored: tuple[str, ...] = ()  # the command's own output, which is no part of the corpus: see `list_files`


class Outcome(Record):
    """`jobs/<id>/outcome.json`: how the job ended. The first one written stands."""

    status: Ended
    started_at: datetime | None
    finished_at: datetime
    progress: Progress
    # So that results stay where they are when keys change with a version:
    model: str | None = None  # the file of the reference's record
    index: str | None = None  # the folder of the index
    report: int = 1  # the version of its report, unless selections were added later
    error: Problem | None = None


class WantedSelection(Record):
    """`jobs/<id>/selections/<selection id>.json`: a selection that was asked for later."""

    spec: SelectionSpec


ALL = "all"  # names the selection of every document that selections choose from
EVERY_DOCUMENT = SelectionSpec(criterion="low", rate=1.0)


class WantedExport(Record):
    """`jobs/<id>/exports/<export id>.json`: an export that was asked for."""

    selection: str  # id, or ALL
    spec: SelectionSpec  # its fields
    options: ExportOptions
    export_roots: tuple[str, ...] | None = None  # that it may be written to, besides the workspace; None: anywhere

    @classmethod
    def of(
        cls, selection: SelectionSpec | None, options: ExportOptions, export_roots: tuple[str, ...] | None = None
    ) -> "WantedExport":
        """The export of a selection, or of all documents with None."""
        name = ALL if selection is None else selection.id
        return cls(selection=name, spec=selection or EVERY_DOCUMENT, options=options, export_roots=export_roots)

    @property
    def root(self) -> str | None:
        """The folder or URL of its files and its export.json; None in the workspace."""
        return self.options.root(self.selection)

    @property
    def id(self) -> str:
        """Its id, by the selection and the options."""
        return hashlib.sha256(f"{self.selection} {self.options.model_dump_json()}".encode()).hexdigest()[:16]


class FailedExport(Record):
    """`jobs/<id>/failed-exports/<export id>.json`: why an export cannot be made."""

    error: Problem


class WantedAblation(Record):
    """`jobs/<id>/ablations/<ablation id>.json`: an ablation that was asked for."""

    specs: tuple[SelectionSpec, ...]  # of its selections, in the order of their ids in the options
    options: AblationOptions
    files: str  # a digest of the held-out files and tasks as they were

    @property
    def id(self) -> str:
        """Its id, by the selections, the options and the files."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def needed(self) -> tuple[SelectionSpec, ...]:
        """The selections that it reads: those that it compares, and every document."""
        return (EVERY_DOCUMENT, *self.specs)


class FailedAblation(Record):
    """`jobs/<id>/failed-ablations/<ablation id>.json`: why an ablation is not made."""

    error: Problem | None  # None: it was cancelled


class CorpusRecord(Record):
    """`jobs/<id>/corpus.json`: the plan of the job's corpus, which lies in `corpus/`."""

    started_at: datetime  # of the planning
    digest: str
    plan: str | None = None  # its file; None in records of earlier versions
    documents: int | None  # None while some file has no row counts
    shards: int
    text_bytes: int  # about
    files: int | None = None  # None in records of earlier versions
    bytes: int = 0  # of the files
    left_out: tuple[LeftOut, ...] = ()


class ModelRecord(Record):
    """The identity of a reference: `jobs/<id>/model.json` of a named one, `model/<key>/model.json` of a trained one."""

    source: str  # what the user named, or the folder of the workspace that holds a trained one
    trained: bool
    sha256: str
    tokenizer_sha256: str
    tokens_sha256: str | None = None  # of what cuts texts into tokens; None of classifiers and in earlier records
    training: TrainingSummary | None = None  # of a trained one

    @property
    def fingerprint(self) -> ModelFingerprint:
        """The digests alone."""
        return ModelFingerprint(self.sha256, self.tokenizer_sha256)

    def cuts_as(self, other: "ModelRecord") -> bool:
        """Whether both cut each text into the same tokens, as far as is known."""
        same = self.tokens_sha256 is not None and self.tokens_sha256 == other.tokens_sha256
        return same or self.tokenizer_sha256 == other.tokenizer_sha256


class JobSummary(Record):
    """What the queue keeps of a job for its readers."""

    status: Status = "queued"
    documents: int | None = None
    shards: int = 0
    text_bytes: int = 0
    indexed: bool = False
    report: str | None = None  # the file of the latest report
    selections: tuple[str, ...] = ()  # the ids of the selections in it


@lru_cache(maxsize=4_096)
def parse_summary(text: str) -> JobSummary:
    """The summary that the queue keeps of a job."""
    return JobSummary.model_validate_json(text)


class TaskNote(Record):
    """What a worker says with a heartbeat."""

    device: str = ""  # `cpu`, `cuda`, or "" while unknown
    documents: int = 0
    tokens: int = 0
    tokens_total: int = 0  # 0 while unknown
    files: int = 0  # of a corpus that is planned: files that were looked into
    files_total: int = 0  # files that were listed
    tokens_per_second: float = 0.0
    set_aside: bool = False  # while the worker does a task of another job
    # Documents and tokens that it has scored, by bin of ln(perplexity):
    bins: dict[int, tuple[int, int]] = Field(default_factory=dict)


class WorkspaceRecord(Record):
    """`workspace.json`: a name made once for this workspace, whatever path each machine reaches it by."""

    format: Literal[2] = 2  # type: ignore[assignment]  # 0.1.0 wrote no format
    id: str
