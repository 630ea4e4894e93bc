"""The JSON of the HTTP API: what a job is as submitted and as returned. The OpenAPI page is made of these models."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from pruner.corpus.listing import LeftOut
from pruner.export.formats import ExportedFile, ExportFormat, export_root
from pruner.spec import CorpusSpec, Criterion, Difference, Name, Per, RankSum, ScoreName, Seed, SelectionSpec, Stages
from scorer.spec import ReferenceSpec, RequestModel, ScoringSpec, TrainSpec
from scorer.training.summary import TrainingSummary
from service.contract.names import Status
from service.contract.scorers import (
    SCORERS_MAX,
    ScorerName,
    ScorerSpec,
    check_names,
    check_selection,
    uses_no_reference,
)

TEXTS_MAX = 100_000  # characters of the texts that are scored at once, in all


def _check_scores(selection: SelectionSpec, info: ValidationInfo) -> SelectionSpec:
    """Of a job's selection. Raises ValueError where it uses a score that the job does not have."""
    if "reference" in info.data and "scores" in info.data:  # else these are wrong themselves
        check_selection(selection, info.data["scores"], has_reference=info.data["reference"] is not None)
    return selection


class JobRequest(RequestModel):
    """A corpus, the reference that scores it, and the selections to make."""

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(None, description="A title.")
    corpus: CorpusSpec
    reference: ReferenceSpec | None = Field(
        None, description="By default one is trained, or none if the selections use only further scorers."
    )
    scores: dict[ScorerName, ScorerSpec] = Field(
        {}, max_length=SCORERS_MAX, description="Further scorers by name, beside the reference."
    )
    scoring: ScoringSpec = ScoringSpec()
    selections: list[Annotated[SelectionSpec, AfterValidator(_check_scores)]] = Field(
        [SelectionSpec()], min_length=1, max_length=1000
    )
    priority: int = Field(
        0, ge=-10, le=10, description="Each step doubles the job's share of the workers' time beside other jobs."
    )

    @property
    def model(self) -> str | None:
        """The folder or hub id of the reference; None of one that is trained, and of a job without."""
        return None if self.reference is None else self.reference.model

    @property
    def train(self) -> TrainSpec | None:
        """How the reference is trained; None of a named one, and of a job without."""
        return None if self.reference is None else self.reference.train

    @model_validator(mode="before")
    @classmethod
    def _default_reference(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or fields.get("reference") is not None or uses_no_reference(fields):
            return fields
        return fields | {"reference": ReferenceSpec(train=TrainSpec())}

    @field_validator("scores")
    @classmethod
    def _names(cls, scores: dict[str, ScorerSpec]) -> dict[str, ScorerSpec]:
        return check_names(scores)

    @model_validator(mode="after")
    def _domains_need_a_field(self) -> "JobRequest":
        if self.corpus.domain_field is None and any(s.in_domains for s in self.selections):
            raise ValueError("a selection within 'domain' needs corpus.domain_field")
        by_id = {spec.id: spec for spec in self.selections}
        if different := [spec.id for spec in self.selections if spec != by_id[spec.id]]:
            raise ValueError(f"two selections have the name {different[0]!r}: give one another name")
        return self


class ScoreRequest(RequestModel):
    """A few texts to score now, by a `model` (a local folder or hub id) or by the reference that a `job` trained."""

    texts: list[str] = Field(min_length=1, max_length=64)
    model: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    job: Annotated[str, Field(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")] | None = None
    scoring: ScoringSpec = ScoringSpec()
    tokens: bool = Field(False, description="Whether to give the NLL of each token.")

    @model_validator(mode="after")
    def _few_and_of_one_reference(self) -> "ScoreRequest":
        if (self.model is None) == (self.job is None):
            raise ValueError("give either 'model' (a folder or hub id) or 'job' (the id of one), and not both")
        if sum(map(len, self.texts)) > TEXTS_MAX:
            raise ValueError(f"the texts have more than {TEXTS_MAX:,} characters: submit a job for so many")
        return self


class ScoredToken(BaseModel):
    """A token of a text. `nll` is null for a first token that is context only, and where it is not finite."""

    id: int
    text: str
    nll: float | None


class ScoredText(BaseModel):
    """A text's score; without one, its numbers are null and `reject` says why."""

    n_tokens: int | None
    nll: float | None
    perplexity: float | None
    reject: str | None
    tokens: list[ScoredToken] | None = None


class ScoreResult(BaseModel):
    """The scores of the texts, in their order, and what they come from."""

    documents: list[ScoredText]
    provenance: dict[str, Any]


class Progress(BaseModel):
    """How far a job is. It moves at least every two seconds while a worker has the job."""

    documents_done: int = 0
    documents_total: int | None = None
    tokens_done: int = 0
    shards_done: int = 0
    shards_total: int = 0
    rejects: int = 0
    tokens_per_second: float = 0.0
    eta_seconds: float | None = Field(None, description="Seconds to the end of training, or of scoring.")
    training_tokens_done: int = 0
    training_tokens_total: int = 0
    updated_at: datetime | None = None
    waiting_for: str | None = Field(None, description="Why no work is done on the job now, in a sentence.")
    shards_leased: int = Field(0, description="Shards that a worker has now.")
    shards_failed: int = Field(0, description="Shards that wait for another attempt after an error.")
    worker_seconds: float = Field(0.0, description="Time that training and scoring took workers, all together.")
    gpu_seconds: float = Field(0.0, description="The part of worker_seconds that was spent on GPUs.")
    files_listed: int = Field(0, description="Files of the corpus that planning has listed so far.")
    files_planned: int = Field(0, description="Of these, the files that it has looked into.")


class WorkerState(BaseModel):
    """A worker that has a task of a job."""

    worker: str
    device: str = Field(description="`cpu` or `cuda`; empty until it has loaded the reference.")
    task: str = Field(description="The kind of the artefact that is made, `:` and the number of the part.")
    attempts: int
    documents: int
    tokens: int
    claimed_at: datetime
    seen_at: datetime = Field(description="Its last sign of life.")


class JobWorkers(BaseModel):
    """The workers that have tasks of a job now."""

    data: list[WorkerState]


class SelectionResult(BaseModel):
    """A selection that was made. `perplexity_min` and `perplexity_max` are null when it keeps nothing.

    `start` and `stop` are the ranks of its documents in its order, from 0; null within domains, where they are no run.
    """

    id: str
    criterion: Criterion
    rate: float
    unit: Literal["documents", "tokens"]
    within: Literal["domain"] | None
    per: Per = None
    seed: Seed = None
    score: ScoreName = None
    name: Name = None
    stages: Stages = None
    difference: Difference = None
    rank_sum: RankSum = None
    documents: int
    tokens: int
    perplexity_min: float | None
    perplexity_max: float | None
    start: int | None = None
    stop: int | None = None
    manifest_url: str
    parts: int | None = Field(None, description="Of a manifest that is too large for one file.")


class TableFile(BaseModel):
    """A file of a table: one of its parts, or all of it."""

    name: str
    bytes: int
    sha256: str
    url: str


class TableFiles(BaseModel):
    """The files of a table, in the order of its rows."""

    data: list[TableFile]


class ExportOptions(RequestModel):
    """How the documents of a selection are exported."""

    format: ExportFormat = Field(
        "same",
        description="Format of the files: `same` as in the corpus; `dolma` for attributes of the Dolma toolkit.",
    )
    scores: bool = Field(
        False, description="Whether to add the columns `winnow_nll`, `winnow_n_tokens`, … to the rows."
    )
    out: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Folder or URL to write to, under an export root of the service; null: the workspace. Of the format"
        " `dolma`, the root of the corpus, which has the folder `documents`.",
    )

    @field_validator("out")
    @classmethod
    def _one_spelling(cls, value: str | None) -> str | None:
        return value if value is None else value.rstrip("/") or value

    def root(self, selection: str) -> str | None:
        """The root of the export of a selection; None in the workspace."""
        return None if self.out is None else export_root(self.out, self.format, selection)


class ExportProgress(BaseModel):
    """How far an export is. `documents_total` and `parts_total` are null until it is planned."""

    documents_total: int | None = None
    parts_done: int = 0
    parts_total: int | None = Field(
        None, description="Parts that are written one by one: files, and parts of huge ones."
    )


class Export(BaseModel):
    """The kept documents of a selection as corpus files. `files` is empty until it has succeeded."""

    id: str
    selection: str
    format: ExportFormat
    scores: bool
    out: str | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    progress: ExportProgress
    files: tuple[ExportedFile, ...] = ()
    error: "Problem | None" = None


class ExportList(BaseModel):
    """The exports of a job."""

    data: list[Export]


class Problem(BaseModel):
    """An RFC 9457 problem."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str | None = None


class LeftOutFiles(BaseModel):
    """Files that are no part of a corpus for the same reason, or a pattern that matches no file."""

    reason: str
    files: int = Field(description="How many; 0 for a pattern of `include` or `exclude` that matches none.")
    example: str = Field(description="The path of one of them, or the pattern.")


class JobCorpus(BaseModel):
    """The files of a planned job's corpus."""

    files: int = Field(description="How many.")
    bytes: int
    left_out: list[LeftOutFiles]

    @classmethod
    def of(cls, files: int, size: int, left_out: Sequence[LeftOut]) -> "JobCorpus":
        """The counts of a plan."""
        left = [LeftOutFiles(reason=each.reason, files=each.files, example=each.example) for each in left_out]
        return cls(files=files, bytes=size, left_out=left)


class Job(BaseModel):
    """A job as returned."""

    id: str
    status: Status
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    request: JobRequest
    corpus: JobCorpus | None = Field(None, description="Null until the job is planned.")
    reference: TrainingSummary | None = Field(
        None, description="How the reference was trained; null until it is, and for a named one."
    )
    progress: Progress
    selections: list[SelectionResult]
    provenance: dict[str, Any]
    error: Problem | None


class JobPage(BaseModel):
    """A page of jobs, newest first; `next_cursor` is null on the last."""

    data: list[Job]
    next_cursor: str | None
