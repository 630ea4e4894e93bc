"""Ablations of a job: requested, listed, shown, cancelled."""

from pruner.ablation.pool import is_other_arm
from pruner.ablation.tasks import OLMES, find_task_files
from pruner.corpus.listing import find_files
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from service.contract.ablations import NO_HELD_OUT, Ablation, AblationOptions, AblationProgress
from service.jobs.jobs import Conflict, Jobs, not_there
from service.kinds import ablation, selection
from service.kinds.ablation_end import runs_path
from service.kinds.ablation_plan import AblationPlan, find_plan, rounds, run_path
from service.kinds.job_files import JobFiles
from service.queue.tasks import JobState
from service.store.records import Ended, FailedAblation, TaskNote, WantedAblation
from service.store.workspace import digest

_HELDOUT_FILES_MAX = 10_000  # of one name, as the API lists them when it is asked


class UnknownAblation(LookupError):
    """The job has no such selection or ablation. The message is one line."""


class NoHeldOut(InputError):
    """There is no held-out text to compare the arms by."""


def add_ablation(jobs: Jobs, job_id: str, options: AblationOptions) -> Ablation:
    """Asks for an ablation; one that has failed or was cancelled goes on from what is done.

    Raises UnknownJob, UnknownAblation for a selection that the job does not have, Conflict while the job has not
    succeeded or a selection is not made, InputError for files that it may not read, and NoHeldOut.
    """
    job, files = jobs.files(job_id)
    if job.status != "succeeded":
        raise not_there(job.status, "selections to compare")
    wanted = want(files, options)
    for spec in wanted.specs:
        if selection.find(files, spec) is None:
            raise Conflict(f"the selection {spec.id} is not made yet: ask again when it is")
    jobs.workspace.want_ablation(job_id, wanted)
    jobs.lifecycle.advance(job_id)
    return find_ablation(jobs, job_id, wanted.id)


def want(files: JobFiles, options: AblationOptions) -> WantedAblation:
    """The record of a requested ablation. Raises UnknownAblation, InputError and NoHeldOut."""
    specs = {spec.id: spec for spec in files.selections}
    for name in options.selection:
        if name not in specs:
            raise UnknownAblation(f"job {files.record.id} has no selection {name}: it has {', '.join(specs)}")
        if specs[name].name is not None and is_other_arm(name):
            raise InputError(f"the selection {name} has the name of another arm: make it again under another name")
    if files.record.request.train is None and not options.heldout:
        raise NoHeldOut(NO_HELD_OUT)
    return WantedAblation(
        specs=tuple(specs[name] for name in options.selection), options=options, files=_files(files, options)
    )


def list_ablations(jobs: Jobs, job_id: str) -> list[Ablation]:
    """All ablations of a job. Raises UnknownJob."""
    _, files = jobs.files(job_id)
    state, failed = jobs.queue.state(job_id), jobs.workspace.failed_ablations(job_id)
    return [
        show_ablation(files, wanted, state, failed.get(wanted.id)) for wanted in files.workspace.ablations(files.record)
    ]


def find_ablation(jobs: Jobs, job_id: str, ablation_id: str) -> Ablation:
    """One ablation. Raises UnknownJob and UnknownAblation."""
    _, files = jobs.files(job_id)
    failed = jobs.workspace.failed_ablations(job_id).get(ablation_id)
    return show_ablation(files, find_wanted(files, ablation_id), jobs.queue.state(job_id), failed)


def cancel_ablation(jobs: Jobs, job_id: str, ablation_id: str) -> Ablation:
    """Cancels an ablation; one that is cancelled stays so. Runs under way end at their next sign of life.

    What is done stays, for when it is asked for again. Raises UnknownJob, UnknownAblation, and Conflict when it ended
    otherwise.
    """
    now = find_ablation(jobs, job_id, ablation_id)
    if now.status in ("succeeded", "failed"):
        raise Conflict(f"the ablation has {now.status} already: there is nothing to cancel")
    jobs.workspace.fail_ablation(job_id, ablation_id, None)  # first: what is queued meanwhile finds no such ablation
    _, files = jobs.files(job_id)
    jobs.queue.drop(job_id, ablation.node_name(find_wanted(files, ablation_id)))
    return find_ablation(jobs, job_id, ablation_id)


def find_runs(jobs: Jobs, job_id: str, ablation_id: str) -> str:
    """The file of an ablation's runs. Raises UnknownJob, UnknownAblation, and Conflict while it is not complete."""
    _, files = jobs.files(job_id)
    wanted = find_wanted(files, ablation_id)
    if ablation.find(files, wanted) is None:
        raise Conflict("the ablation is not complete: ask again when it has succeeded")
    return runs_path(files, wanted)


def find_wanted(files: JobFiles, ablation_id: str) -> WantedAblation:
    """An ablation as it was asked for. Raises UnknownAblation."""
    found = next((wanted for wanted in files.workspace.ablations(files.record) if wanted.id == ablation_id), None)
    if found is None:
        raise UnknownAblation(f"job {files.record.id} has no ablation {ablation_id}")
    return found


def show_ablation(
    files: JobFiles, wanted: WantedAblation, state: JobState | None, failed: FailedAblation | None
) -> Ablation:
    """An ablation as the API returns it; `state`: tasks and counters of its job in the queue."""
    ended: Ended | None = None if failed is None else "failed" if failed.error else "cancelled"
    made = ablation.find(files, wanted) if ended is None else None
    plan = find_plan(files, wanted)
    prefix = ablation.node_name(wanted)
    counters = {} if state is None else state.counters
    begun = any(name.startswith(prefix) and "started" in found for name, found in counters.items())
    return Ablation(
        id=wanted.id,
        options=wanted.options,
        status=ended or ("succeeded" if made else "running" if begun else "queued"),
        progress=AblationProgress() if plan is None else _progress(files, wanted, plan, state, done=made is not None),
        estimate=None if plan is None else plan.estimate,
        result=made,
        error=None if failed is None else failed.error,
    )


def _progress(
    files: JobFiles, wanted: WantedAblation, plan: AblationPlan, state: JobState | None, *, done: bool
) -> AblationProgress:
    """Runs that have ended, and tokens of those and of running ones."""
    storage, each = files.workspace.storage, plan.settings.tokens
    paths = [run_path(files, wanted, plan, key) for keys in rounds(files, wanted, plan) for key in keys]
    total = len(paths)
    runs = total if done else total - len(storage.missing(paths))
    tokens = runs * each
    if state is not None and not done:
        prefix = ablation.node_name(wanted, "runs-")
        notes = [lease.note for lease in state.leases if lease.note and lease.task.startswith(prefix)]
        tokens = min(total * each, tokens + sum(TaskNote.model_validate_json(note).tokens for note in notes))
    return AblationProgress(runs_done=runs, runs_total=total, tokens_done=tokens, tokens_total=total * each)


def _files(files: JobFiles, options: AblationOptions) -> str:
    """A digest of names, sizes and times of the held-out files and tasks. Raises InputError for those not allowed."""
    roots, found = files.record.access.roots, []
    for path in options.heldout.values():

        def on_listed(count: int, path: str = path) -> None:
            if count > _HELDOUT_FILES_MAX:
                raise InputError(f"{path}: holds over {_HELDOUT_FILES_MAX:,} files; name the held-out ones alone")

        listed = find_files(CorpusSpec(paths=[path]), roots, on_listed=on_listed)
        found.append([(file.url, file.size, file.version) for file in listed.files])
    for place in options.tasks:
        if place != OLMES:
            there = find_task_files(place, roots)
            found.append([(str(path), path.stat().st_size, str(path.stat().st_mtime_ns)) for path in there])
    return digest(found)
