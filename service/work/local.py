"""The commands that need no server: a job's stages run in this process, over a workspace of their own, resumable."""

import errno
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from pruner.corpus.files import find_files
from pruner.corpus.sample import training_texts
from pruner.corpus.sandbox import make_plan
from pruner.errors import InputError
from pruner.select.rank_index import read_ranks
from pruner.spec import CorpusSpec, SelectionSpec
from pruner.tables.storage import Storage
from service.contract.names import Device, Status
from service.contract.schemas import Job, JobRequest, Preset, Progress, ScoreRequest, ScoreResult
from service.jobs.status import make_view, show_job, tokens_left
from service.jobs.steps import known_score_paths, next_step
from service.kinds import stages
from service.kinds.model_loader import References
from service.kinds.shard_scoring import Begun, plan_of
from service.store.workspace import JobRecord, Outcome, Workspace, digest
from service.work.score_now import score_now

OnProgress = Callable[[Status, Progress], None]
_STATUS: dict[str, Status] = {"plan": "planning", "train": "training", "score": "scoring", "select": "selecting"}


def prune(request: JobRequest, out: Path, device: Device, on_progress: OnProgress, report: Path | None = None) -> Job:
    """Does a job and puts its manifests, scores, rejects, report and trained reference into `out`.

    With `report` it writes the report as HTML there, and its plots into a folder beside it.

    What `out` says of an earlier, killed run of the same job is used. Of earlier jobs there, the manifests made of the
    same scores stay, and the results of others go. `on_progress` is called as the job goes on, and may raise to end it.
    Raises InputError or BadReference.
    """
    with _workspace(out / ".winnow") as workspace:
        record = _record(workspace, request)
        run = _Run(workspace, record, References(workspace, device), on_progress)
        run.to_the_scores()
        target = Storage(str(out))
        alike = _clear(workspace, record, out)
        _copy(workspace, workspace.path(record.id, "rejects.parquet"), target, "rejects.parquet")
        _copy(workspace, workspace.path(record.id, "scores.parquet"), target, "scores/scores.parquet")
        job = run.to_the_end()
        for job_id in [*alike, record.id]:
            for made in workspace.selected(job_id):
                manifest = workspace.selection_path(job_id, made, "manifest.parquet")
                _copy(workspace, manifest, target, f"manifest-{made}.parquet")
        _copy(workspace, workspace.path(record.id, "report.json"), target, "report.json")
        reference = workspace.known_reference(record.id)
        if reference is not None and reference.trained:
            for name in workspace.storage.list(reference.folder):
                _copy(workspace, f"{reference.folder}/{name}", target, f"reference/{name}")
        if report is not None:
            _write_report(workspace, record, job, report)
        return job


def score(request: JobRequest, out: Path, device: Device, on_progress: OnProgress) -> Progress:
    """Scores a corpus into the Parquet file `out`, with no selection. As `prune` else."""
    work = out.parent / f".{out.name}.winnow"
    with _workspace(work) as workspace:
        record = _record(workspace, request)
        progress = _Run(workspace, record, References(workspace, device), on_progress).to_the_scores()
        _copy(workspace, workspace.path(record.id, "scores.parquet"), Storage(str(out.parent)), out.name)
    shutil.rmtree(work)
    return progress


def score_texts(request: ScoreRequest, device: Device) -> ScoreResult:
    """Scores a few texts by a model. Raises BadReference, and OutOfMemory."""
    references = References(Workspace("memory://"), device)  # which holds nothing
    return score_now(references, stages.inspect_reference(request.model or ""), request)


def train(
    corpus: CorpusSpec, preset: Preset, tokens: int, seed: int, out: Path, device: Device, on_progress: OnProgress
) -> int:
    """Trains a reference on documents of a corpus and saves it in `out`; a killed training goes on. As `prune` else.

    Returns the tokens that it was trained on: fewer than `tokens` where the corpus is small.
    """
    work = out.parent / f".{out.name}.winnow"
    with _workspace(work) as workspace:
        on_progress("planning", Progress())
        plan = make_plan(corpus)
        name = digest([file.version for file in plan.files], corpus.model_dump(), preset, tokens, seed)
        place = References(workspace, device).device()
        from scorer.training.train import train as train_reference

        progress = Progress(training_tokens_total=tokens)

        def tell() -> None:
            progress.updated_at = datetime.now(timezone.utc)
            on_progress("training", progress)

        def told(done: int, total: int, _loss: float | None) -> None:
            progress.training_tokens_done, progress.training_tokens_total = done, total
            tell()

        def texts() -> Iterator[str]:
            return training_texts(plan, corpus, tokens, 1.0, seed, tell)

        trained = train_reference(texts, preset, tokens, seed, out, work / name, place, told)
    shutil.rmtree(work)
    return trained


def _write_report(workspace: Workspace, record: JobRecord, job: Job, out: Path) -> None:
    from service.jobs.explore import read_documents
    from service.page.report import SAMPLE_CHARACTERS, ReportData, preview_specs, sample_spans, write_report

    shown = job.model_dump(mode="json")
    report = workspace.storage.read_json(workspace.path(job.id, "report.json"))
    ranks = read_ranks(workspace.storage, workspace.folder(job.id))
    previews = [ranks.preview(SelectionSpec.model_validate(spec)) for spec in preview_specs(shown)]
    samples = {}
    for place in sample_spans(report, previews):
        rank, count, domain = place
        found = read_documents(workspace, record, ranks, rank, count, SAMPLE_CHARACTERS, domain)
        samples[place] = found.model_dump(mode="json")["data"]
    write_report(out, ReportData(shown, report, previews, samples), "http://127.0.0.1:8000")


class _Run:
    """One job's stages, one after the other. It is its own `Beat`."""

    def __init__(
        self, workspace: Workspace, record: JobRecord, references: References, on_progress: OnProgress
    ) -> None:
        self._workspace, self._record, self._references = workspace, record, references
        self._on_progress = on_progress
        self._status: Status = "queued"
        self._progress = Progress()
        self._base = (0, 0)  # documents and tokens of the shards that are done
        self._found = 0  # of these tokens, how many were scored by an earlier run
        self._text_bytes = 0
        self._since = time.monotonic()

    def to_the_scores(self) -> Progress:
        """The stages up to the table of scores."""
        while (step := next_step(self._workspace, self._record)) in ("plan", "train", "score"):
            self._step(step)
        stages.tabulate(self._workspace, self._record)
        return self._progress

    def to_the_end(self) -> Job:
        """All stages."""
        while (step := next_step(self._workspace, self._record)) != "end":
            self._step(step)
        results = self._workspace.results(self._record.id)
        outcome = Outcome(
            status="succeeded",
            started_at=plan_of(self._workspace, self._record).started_at,
            finished_at=datetime.now(timezone.utc),
            progress=self._progress.model_copy(update=results["progress"] if results else {}),
        )
        self._workspace.end(self._record.id, outcome)
        return show_job(make_view(self._workspace, self._record), None)

    def __call__(self, documents: int, tokens: int) -> None:
        now = self._progress
        if self._status == "training":
            now.training_tokens_done = tokens
        else:
            now.documents_done, now.tokens_done = self._base[0] + documents, self._base[1] + tokens
            elapsed = max(0.001, time.monotonic() - self._since)
            now.tokens_per_second = (now.tokens_done - self._found) / elapsed
            left = tokens_left(now, self._base[1], self._text_bytes)
            now.eta_seconds = None if left is None or now.tokens_per_second <= 0 else left / now.tokens_per_second
        self._tell()

    def blocking(self) -> AbstractContextManager[None]:
        """Nobody waits for a sign of life here."""
        return nullcontext()

    def _step(self, step: str) -> None:
        self._status = _STATUS[step]
        self._tell()
        if step == "plan":
            stages.plan(self._workspace, self._record)
        elif step == "train":
            train = self._record.request.reference.train
            self._progress.training_tokens_total = train.tokens if train is not None else 0
            stages.train(self._workspace, self._record, self._references, self)
        elif step == "score":
            self._score()
        else:
            stages.select(self._workspace, self._record)

    def _score(self) -> None:
        planned = plan_of(self._workspace, self._record)
        now = self._progress
        now.documents_total, now.shards_total = planned.documents, planned.shards
        self._text_bytes = planned.text_bytes
        self._since = time.monotonic()
        begun: list[Begun | None] = [None]  # the reading of the next shard

        def look_ahead(shard: int) -> None:
            if begun[0] is not None:  # of a shard that began again with less memory
                begun[0].close()
            if shard < planned.shards:
                begun[0] = stages.begin(self._workspace, self._record, shard, self._references)

        try:
            for shard in range(planned.shards):
                ahead, begun[0] = begun[0], None
                then = partial(look_ahead, shard + 1)
                counts = stages.score(self._workspace, self._record, shard, self._references, self, ahead, then)
                self._base = (self._base[0] + counts.documents, self._base[1] + counts.tokens)
                self._found += 0 if counts.fresh else counts.tokens
                now.shards_done += 1
                now.rejects += counts.rejects
                self(0, 0)
        finally:
            if begun[0] is not None:
                begun[0].close()

    def _tell(self) -> None:
        self._progress.updated_at = datetime.now(timezone.utc)
        self._on_progress(self._status, self._progress)


@contextmanager
def _workspace(folder: Path) -> Iterator[Workspace]:
    """A workspace for this process alone. Raises InputError while another works in it, and where the disk is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Workspace(str(folder))
    except BlockingIOError:
        raise InputError(f"another winnow is at work in {folder}: wait for it, or choose another output") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"no space left for {folder.parent}: free some and run this again, it goes on") from None


def _clear(workspace: Workspace, record: JobRecord, out: Path) -> list[str]:
    """Removes what earlier jobs left in `out`. Returns the ids of those with this job's scores."""
    others = [other for name in workspace.jobs() if name != record.id and (other := workspace.job(name)) is not None]
    for other in others:
        for made in workspace.selected(other.id):
            (out / f"manifest-{made}.parquet").unlink(missing_ok=True)
        reference = workspace.known_reference(other.id)
        if reference is not None and reference.trained:
            for name in workspace.storage.list(reference.folder):
                (out / "reference" / name).unlink(missing_ok=True)
            with suppress(OSError):  # it is not there, or holds what is not ours
                (out / "reference").rmdir()
    scores = known_score_paths(workspace, record)
    return [other.id for other in others if known_score_paths(workspace, other) == scores]


def _record(workspace: Workspace, request: JobRequest) -> JobRecord:
    """The job of this request on these files, as it was asked for before or now."""
    files = [(file.url, file.size, file.version) for file in find_files(request.corpus.paths)]
    record = JobRecord(
        id=digest(request.model_dump(mode="json"), files)[:20], created_at=datetime.now(timezone.utc), request=request
    )
    workspace.create_job(record)
    return workspace.job(record.id) or record


def _copy(workspace: Workspace, path: str, target: Storage, name: str) -> None:
    with workspace.storage.open(path) as source, target.create(name) as copied:
        shutil.copyfileobj(source, copied, 1 << 20)
