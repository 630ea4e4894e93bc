"""A job as its readers see it: status, progress, time left, results."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from typing import NamedTuple

from pruner.select.selection import MANIFEST_FILE
from pruner.tables.table_files import parts_of
from scorer.training.summary import TrainingSummary
from service.contract.names import Resource
from service.contract.schemas import Job, JobCorpus, Progress, SelectionResult, WorkerState
from service.kinds import index, passes, selection
from service.kinds.job_files import JobFiles
from service.kinds.provenance import provenance
from service.queue.tasks import HeldLease, JobState
from service.store.records import CorpusRecord, JobSummary, Outcome, TaskNote, parse_summary

_BYTES_A_TOKEN = 2.5  # of text, at least, for most tokenizers and languages
_WORK: Mapping[Resource, str] = {"light": "reads corpora and makes selections", "gpu": "trains and scores"}
_TIMED = ("model", "prior", "scores", "classifier")  # the kinds of nodes whose time on workers is shown


def show_job(job: JobFiles, outcome: Outcome | None, state: JobState | None) -> Job:
    """A job as returned; `state` is what the queue knows of it."""
    record = job.record
    summary = JobSummary() if state is None else parse_summary(state.summary)
    found = index.find(job) if summary.indexed else None
    return Job(
        id=record.id,
        status=outcome.status if outcome else "queued" if started_at(job, state) is None else summary.status,
        created_at=record.created_at,
        started_at=outcome.started_at if outcome else started_at(job, state),
        finished_at=outcome.finished_at if outcome else None,
        request=record.request,
        corpus=_corpus(job.corpus),
        reference=_training(job),
        progress=outcome.progress if outcome else progress_of(job, state) if state else Progress(),
        selections=selections_of(job, summary),
        provenance=found.provenance if found else provenance(job),
        error=outcome.error if outcome else None,
    )


def _training(job: JobFiles) -> TrainingSummary | None:
    if job.record.request.train is None or job.model is None:
        return None
    return job.model.training


def _corpus(found: CorpusRecord | None) -> JobCorpus | None:
    if found is None or found.files is None:
        return None
    return JobCorpus.of(found.files, found.bytes, found.left_out)


def selections_of(job: JobFiles, summary: JobSummary) -> list[SelectionResult]:
    """The selections that are made and in the report."""
    shown = []
    for spec in job.selections:
        made = selection.find(job, spec) if spec.id in summary.selections else None
        if made is not None:
            shown.append(
                SelectionResult(
                    id=spec.id,
                    **dict(spec),
                    documents=made.documents,
                    tokens=made.tokens,
                    perplexity_min=made.perplexity_min,
                    perplexity_max=made.perplexity_max,
                    start=made.start,
                    stop=made.stop,
                    manifest_url=f"/v1/jobs/{job.record.id}/selections/{spec.id}/manifest",
                    parts=len(parts_of(made.files, MANIFEST_FILE)) or None,
                )
            )
    return shown


def workers_of(state: JobState) -> list[WorkerState]:
    """The workers that have tasks of a job now."""
    leases = [(asdict(lease), _note(lease)) for lease in state.leases]
    return [WorkerState.model_validate(dict(note) | lease) for lease, note in leases]  # it reads milliseconds as times


def scored_under_way(state: JobState) -> dict[int, dict[int, tuple[int, int]]]:
    """Documents and tokens by bin of ln(perplexity) that workers have scored of the shards that they have now."""
    leases = [lease for lease in state.leases if lease.task.rpartition(":")[0] == passes.SCORES]
    return {int(lease.task.rpartition(":")[2]): _note(lease).bins for lease in leases}


def _note(lease: HeldLease) -> TaskNote:
    return TaskNote.model_validate_json(lease.note) if lease.note else TaskNote()


class _Running(NamedTuple):
    """What is known of the tasks of one node that are under way."""

    documents: int = 0
    tokens: int = 0
    tokens_total: int = 0
    rate: float = 0.0
    leased: int = 0
    files: int = 0
    files_total: int = 0


def progress_of(job: JobFiles, state: JobState) -> Progress:
    """How far a job is that has not ended."""
    summary = parse_summary(state.summary)
    train = job.record.request.train
    first = passes.of(job)[0]  # of a job with several, the others are made on the way, or quicker
    scored, running = state.counters.get(first, {}), _running(state, first)
    training = _running(state, "model") if train else _Running()
    planning, planned = _running(state, "corpus"), None if job.corpus is None else job.corpus.files
    training_done, training_total = training.tokens, training.tokens_total or (train.tokens if train else 0)
    if (trained := _training(job)) is not None:
        training_done = training_total = trained.tokens
    now = Progress(
        documents_done=scored.get("documents", 0) + running.documents,
        documents_total=summary.documents,
        tokens_done=scored.get("tokens", 0) + running.tokens,
        shards_done=scored.get("parts", 0),
        shards_total=summary.shards,
        rejects=scored.get("rejects", 0),
        shards_leased=running.leased,
        shards_failed=len(state.failed),
        worker_seconds=_seconds(state, "worker_ms"),
        gpu_seconds=_seconds(state, "gpu_ms"),
        training_tokens_done=training_done,
        training_tokens_total=training_total,
        updated_at=_time(state.updated_at),
        waiting_for=_waiting_for(state),
        files_listed=planned or planning.files_total,
        files_planned=planned or planning.files,
    )
    now.tokens_per_second = running.rate or _mean_rate(state, scored, now.tokens_done)
    left = tokens_left(now, scored.get("tokens", 0), summary.text_bytes)
    if summary.status == "scoring" and left is not None and now.tokens_per_second > 0:
        now.eta_seconds = left / now.tokens_per_second
    elif summary.status == "training" and training.rate > 0:
        now.eta_seconds = (training_total - training_done) / training.rate
    return now


def _seconds(state: JobState, counter: str) -> float:
    """The time that models took, by a counter of milliseconds."""
    timed = (found for node, found in state.counters.items() if node.partition("/")[0] in _TIMED)
    return sum(found.get(counter, 0) for found in timed) / 1000


def _running(state: JobState, node: str) -> _Running:
    notes = [_note(lease) for lease in state.leases if lease.task.rpartition(":")[0] == node]
    return _Running(
        sum(note.documents for note in notes),
        sum(note.tokens for note in notes),
        sum(note.tokens_total for note in notes),
        sum(note.tokens_per_second for note in notes),
        len(notes),
        sum(note.files for note in notes),
        sum(note.files_total for note in notes),
    )


def _mean_rate(state: JobState, scored: Mapping[str, int], tokens: int) -> float:
    """Tokens a second since the first shard was claimed."""
    if not scored.get("started") or state.updated_at is None:
        return 0.0
    seconds = (state.updated_at - scored["started"]) / 1000
    return (tokens - scored.get("found", 0)) / seconds if seconds > 0 else 0.0


def _waiting_for(state: JobState) -> str | None:
    """Why no work is done on a job that has not ended, as a sentence, or None."""
    if state.leases:
        aside = all(_note(lease).set_aside for lease in state.leases)
        return "Its worker does the short tasks of other jobs first, then goes on with this one." if aside else None
    if state.failed:
        return f"A part of the work failed and is tried again soon. The error was: {state.failed[0]}"
    for resource in state.waiting:
        if not state.workers.get(resource):
            return f"No worker is running that {_WORK[resource]}: start one with `winnow worker`."
    return "All workers are busy with other jobs. The next free worker takes this job." if state.waiting else None


def tokens_left(now: Progress, settled: int, text_bytes: int) -> float | None:
    """About how many tokens are still to be scored, or None while it cannot be told.

    By the shards that are done, which have `settled` tokens. While there are none, the lower of two estimates that are
    rather too high: by the size of the text, and by the tokens of the documents that are done, as long ones come first.
    """
    if settled and now.shards_total and now.shards_done:
        return max(0.0, settled * now.shards_total / now.shards_done - now.tokens_done)
    most = [text_bytes / _BYTES_A_TOKEN] if text_bytes else []
    if now.documents_total and now.documents_done:
        most.append(now.tokens_done * now.documents_total / now.documents_done)
    return max(0.0, min(most) - now.tokens_done) if most else None


def started_at(job: JobFiles, state: JobState | None) -> datetime | None:
    """When the job's planning began, or None while it is queued."""
    if state is not None and state.started_at is not None:
        return _time(state.started_at)
    return job.corpus.started_at if job.corpus is not None else None


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc) if milliseconds is not None else None
