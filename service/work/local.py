"""The commands that need no server: a job runs in this process, on a queue and a workspace of its own, resumable."""

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from pruner.corpus.listing import find_files
from pruner.errors import InputError
from pruner.select.score_table import REJECTS_FILE, SCORES_FILE
from pruner.select.selection import MANIFEST_FILE
from pruner.select.summary import Summary
from pruner.select.write_index import read_summary
from pruner.spec import SelectionSpec
from pruner.tables.lock import exclusive
from pruner.tables.storage import Storage
from scorer.engine.model_loader import ModelLoader
from service.contract.names import ENDED, RESOURCES, Device, Status
from service.contract.schemas import Job, JobRequest, Progress, ScoreRequest, ScoreResult
from service.jobs.lifecycle import Lifecycle
from service.kinds import index, report, scores, selection
from service.kinds.job_files import JobFiles
from service.kinds.model import identify
from service.kinds.model_files import load
from service.queue.local import LocalQueue
from service.queue.tasks import JobState
from service.store.records import JobRecord
from service.store.workspace import Workspace, digest
from service.work import results
from service.work.score_now import score_now
from service.work.worker import Worker

OnProgress = Callable[[Status, Progress], None]
_TELL_SECONDS = 0.2


def prune(
    request: JobRequest,
    out: Path,
    device: Device,
    on_progress: OnProgress,
    on_end: Callable[[JobFiles, Job], None] = lambda *_: None,
    on_removed: Callable[[str], None] = lambda _name: None,
) -> Job:
    """Runs a job and puts its manifests, scores, rejects, report and trained reference into `out`.

    `on_end` is called with the job when all is written, `on_removed` with the name of each manifest of another corpus
    or reference that was removed.

    An earlier, killed run of the same job into `out` is resumed. Manifests of earlier jobs there that were made of the
    same scores stay; the results of others are removed. `on_progress` is called as the job goes on, and may raise to
    end it. Raises InputError or BadReference.
    """
    with own_workspace(out / results.WORK) as workspace:
        record, target = _record(workspace, request, results.of_prune(request, out), on_progress), Storage(str(out))
        workspace.unwant_exports(record)  # `winnow export` asks for them again
        workspace.unwant_ablations(record)  # and `winnow ablate`
        files = JobFiles(workspace, record)
        try:
            job = _run(files, device, on_progress)
        except InputError:  # of a corpus of rejects the tables say why
            if index.find(files) is not None:
                _copy_tables(files, out)
            raise
        for other in [*_clear(workspace, files, out, on_removed), files]:
            for spec in other.selections:
                name = results.manifest_file(spec.id)
                is_free = other is files or not (out / name).exists()  # else it is a file of the user
                if is_free and selection.find(other, spec) is not None:
                    results.put_table(workspace.storage, f"{selection.folder(other, spec)}/{MANIFEST_FILE}", out, name)
        _copy_tables(files, out)
        workspace.storage.copy(report.path(files), target, results.REPORT_FILE)
        if files.model is not None and files.model.trained:
            for name in workspace.storage.list(files.model.source):
                workspace.storage.copy(f"{files.model.source}/{name}", target, results.reference_file(name))
        on_end(files, job)
        return job


class Scored(NamedTuple):
    """A scoring that has ended, and what is said of its corpus and scores; None where no document has a score."""

    job: Job
    summary: Summary | None


def score(request: JobRequest, out: Path, device: Device, on_progress: OnProgress) -> Scored:
    """Scores a corpus into the Parquet file `out`, with no selection. As `prune` else."""
    work = out.parent / f".{out.name}.winnow"
    own = results.of_score(out, work)
    with own_workspace(work) as workspace:
        files = JobFiles(workspace, _record(workspace, request, own, on_progress, scores_only=True))
        job = _run(files, device, on_progress)
        folder = index.folder(files)
        try:
            summary = read_summary(workspace.storage, folder)
        except FileNotFoundError:  # no document has a score
            summary = None
        results.put_table(workspace.storage, f"{folder}/{SCORES_FILE}", out.parent, out.name)
    shutil.rmtree(work)
    return Scored(job, summary)


def score_texts(request: ScoreRequest, device: Device) -> ScoreResult:
    """Scores a few texts by a model. Raises BadReference, and OutOfMemory."""
    nothing, model = Workspace("memory://"), identify(request.model or "")
    return score_now(load(ModelLoader(device), nothing, model, request.scoring.dtype), request)


def _run(files: JobFiles, device: Device, on_progress: OnProgress) -> Job:
    """Runs a job to its end."""
    told: Status = "queued"
    told_at = float("-inf")

    def tell(lifecycle: Lifecycle, state: JobState | None) -> None:
        nonlocal told, told_at
        now = lifecycle.show(files.record, state)
        if now.status not in ENDED and (now.status != told or time.monotonic() - told_at >= _TELL_SECONDS):
            told, told_at = now.status, time.monotonic()
            on_progress(now.status, now.progress)

    return run_job(files, device, tell)


def run_job(
    files: JobFiles, device: Device, tell: Callable[[Lifecycle, JobState | None], None], workers: int = 1
) -> Job:
    """Makes all that a job asks for, on a queue of its own. `tell` is called now and then, by this thread.

    All but one of the workers are threads that take only light tasks, whose work is done by reader processes.
    """
    record, queue = files.record, LocalQueue()
    lifecycle, models = Lifecycle(files.workspace, queue), ModelLoader(device)

    def between() -> None:
        for beat in worker.heartbeat.held:
            worker.heartbeat.renew(beat)
        tell(lifecycle, queue.state(record.id))

    worker = Worker(lifecycle, models, RESOURCES, "here", alone=True, between=between)
    others = [Worker(lifecycle, models, ("light",), f"light-{n}", alone=True) for n in range(1, workers)]

    def stop() -> None:
        for one in (worker, *others):
            one.stopping = True

    def help_with(other: Worker) -> None:
        try:
            while not other.stopping and (other.once() or queue.wait(("light",), _TELL_SECONDS)):
                pass
        except BaseException:
            stop()
            raise

    with ThreadPoolExecutor(workers) as threads:
        try:
            lifecycle.advance(record.id)
            helping = [threads.submit(help_with, other) for other in others]
            while not worker.stopping and (worker.once() or queue.wait(RESOURCES, _TELL_SECONDS)):
                pass
        finally:
            stop()
            worker.release_ahead()
    for thread in helping:
        thread.result()
    return lifecycle.show(record, queue.state(record.id))


@contextmanager
def own_workspace(folder: Path) -> Iterator[Workspace]:
    """A workspace for this process alone. Raises InputError while another works in it, and where the disk is full."""
    try:
        with exclusive(folder / "lock"):
            workspace = Workspace(str(folder))
            _ = workspace.id  # raises InputError for one of another version
            yield workspace
    except BlockingIOError:
        raise InputError(f"another winnow is at work in {folder}: wait for it, or choose another output") from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InputError(f"no space left for {folder.parent}: free some and run this again, it goes on") from None


@contextmanager
def pruned_workspace(source: Path) -> Iterator[Workspace]:
    """The workspace of the results that `winnow prune` put into a folder, as `own_workspace`.

    Raises InputError where there are no such results.
    """
    work = source / results.WORK
    if not (work / "workspace.json").exists():
        raise InputError(
            f"{source}: no results of `winnow prune`: name its --out folder, or give --server for the id of a job"
        )
    with own_workspace(work) as workspace:
        yield workspace


def _clear(workspace: Workspace, files: JobFiles, out: Path, on_removed: Callable[[str], None]) -> list[JobFiles]:
    """Removes what earlier jobs left in `out`. Returns those with this job's scores."""
    records = [workspace.job(name) for name in workspace.jobs() if name != files.record.id]
    others = [JobFiles(workspace, record) for record in records if record is not None]
    same = [other for other in others if _scores(other) == _scores(files)]
    for other in others:
        for spec in other.selections:
            manifest = results.manifest_file(spec.id)
            if results.is_result(out, manifest):
                if other not in same and is_copy(out / manifest, other, spec):
                    on_removed(manifest)
                results.remove(out / manifest)
        if other.model is not None and other.model.trained:
            for name in workspace.storage.list(other.model.source):
                if results.is_result(out, results.reference_file(name)):
                    (out / results.reference_file(name)).unlink()
            with suppress(OSError):  # it is not there, or holds files of others
                (out / "reference").rmdir()
    return same


def ended_jobs(workspace: Workspace) -> list[JobFiles]:
    """The jobs that have ended, the newest first: an older one may have the same results of files that have changed."""
    records = [workspace.job(job_id) for job_id in workspace.jobs() if workspace.outcome(job_id) is not None]
    found = [JobFiles(workspace, record) for record in records if record is not None]
    return sorted(found, key=lambda files: files.record.created_at, reverse=True)


def is_copy(manifest: Path, job: JobFiles, spec: SelectionSpec) -> bool:
    """Whether a manifest is that of this job, and not of another one with a selection of the same name."""
    if selection.find(job, spec) is None:
        return False
    made = job.workspace.storage.local(f"{selection.folder(job, spec)}/{MANIFEST_FILE}")
    return made is not None and results.is_same(manifest, made)


def _scores(files: JobFiles) -> list[str]:
    """The score files of a job, or the index of one without a reference; none of a job that was not planned."""
    if files.model is None:
        return [index.folder(files)] if files.named else []
    return [] if files.corpus is None else list(scores.paths(files, files.model))


def _record(
    workspace: Workspace,
    request: JobRequest,
    ignored: list[str],
    on_progress: OnProgress,
    *,
    scores_only: bool = False,
) -> JobRecord:
    """The job of this request on these files, as it was asked for before or now."""

    def listed(files: int) -> None:
        on_progress("planning", Progress(files_listed=files))

    listing = find_files(request.corpus, ignored=ignored, on_listed=listed)
    found = [(file.url, file.size, file.version) for file in listing.files]
    name = digest(request.model_dump(mode="json"), ignored, found, _model_files(request))[:20]
    record = JobRecord(
        id=name,
        created_at=datetime.now(timezone.utc),
        request=request,
        scores_only=scores_only,
        ignored=tuple(ignored),
    )
    workspace.create_job(record)
    return workspace.job(name) or record


def _model_files(request: JobRequest) -> list[tuple[str, int, int]]:
    """Path, size and time of change of the files of the local models that a request names.

    A model that was mended or replaced makes another job, for a job keeps to the model that it began with. Scores of
    the same model are found again, whatever the job.
    """
    reference = request.reference
    named = [None if reference is None else reference.model, *(spec.model for spec in request.scores.values())]
    files = [path for model in named if model is not None for path in sorted(Path(model).glob("*")) if path.is_file()]
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _copy_tables(files: JobFiles, out: Path) -> None:
    folder, storage = index.folder(files), files.workspace.storage
    storage.copy(f"{folder}/{REJECTS_FILE}", Storage(str(out)), results.REJECTS_FILE)
    results.put_scores(storage, f"{folder}/{SCORES_FILE}", out)
