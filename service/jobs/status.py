"""A job as users see it: `make_view` gathers what the workspace says for Redis to keep, `show_job` shows it."""

from datetime import datetime, timezone
from typing import Any

from pruner.spec import SelectionSpec
from service.contract.schemas import Job, Progress, SelectionResult
from service.jobs.steps import provenance
from service.queue.leases import JobState
from service.store.workspace import JobRecord, Outcome, Workspace

_BYTES_A_TOKEN = 2.5  # of text, at least, for most tokenizers and languages


def make_view(workspace: Workspace, record: JobRecord) -> dict[str, Any]:
    """What the workspace says of a job, for Redis to show."""
    plan = workspace.plan_record(record.id)
    outcome = workspace.outcome(record.id)
    results = workspace.results(record.id)
    made: dict[str, Any] = {}
    selections = []
    if plan is not None:
        made = provenance(record, plan, workspace.reference(plan))
    if results is not None:
        made = results["provenance"]
        selected = workspace.selected(record.id)
        for spec in workspace.wanted(record):
            found = workspace.selection(record.id, spec.id) if spec.id in selected else None
            if found is not None:
                selections.append(_selection(record.id, spec, found).model_dump())
    return {
        "record": record.model_dump(mode="json"),
        "started_at": plan.started_at.isoformat() if plan else None,
        "documents_total": plan.documents if plan else None,
        "shards_total": plan.shards if plan else 0,
        "text_bytes": plan.text_bytes if plan else 0,
        "provenance": made,
        "selections": selections,
        "outcome": outcome.model_dump(mode="json") if outcome else None,
    }


def _selection(job_id: str, spec: SelectionSpec, made: dict[str, Any]) -> SelectionResult:
    return SelectionResult(
        id=spec.id,
        criterion=spec.criterion,
        rate=spec.rate,
        unit=spec.unit,
        within=spec.within,
        documents=made["documents"],
        tokens=made["tokens"],
        perplexity_min=made["perplexity_min"],
        perplexity_max=made["perplexity_max"],
        start=made.get("start"),  # an earlier version did not write them
        stop=made.get("stop"),
        manifest_url=f"/v1/jobs/{job_id}/selections/{spec.id}/manifest",
    )


def show_job(view: dict[str, Any], state: JobState | None) -> Job:
    """A job as returned; `state` is what Redis knows, None of a job that was done without."""
    record = JobRecord.model_validate(view["record"])
    outcome = Outcome.model_validate(view["outcome"]) if view["outcome"] else None
    return Job(
        id=record.id,
        status=outcome.status if outcome else state.status if state else "queued",
        created_at=record.created_at,
        started_at=outcome.started_at if outcome else started_at(state, view),
        finished_at=outcome.finished_at if outcome else None,
        request=record.request,
        progress=outcome.progress if outcome else progress_of(state, view) if state else Progress(),
        selections=[SelectionResult.model_validate(made) for made in view["selections"]],
        provenance=view["provenance"],
        error=outcome.error if outcome else None,
    )


def progress_of(state: JobState, view: dict[str, Any]) -> Progress:
    """How far a job that has not ended is."""
    train = view["record"]["request"]["reference"]["train"]
    training_total = train["tokens"] if train else 0
    trained = state.status in ("scoring", "selecting")
    now = Progress(
        documents_done=state.documents_done,
        documents_total=view["documents_total"],
        tokens_done=state.tokens_done,
        shards_done=state.shards_done,
        shards_total=view["shards_total"],
        rejects=state.rejects,
        tokens_per_second=state.tokens_per_second,
        shards_leased=state.shards_leased,
        shards_failed=state.shards_failed,
        worker_seconds=state.worker_ms / 1000,
        gpu_seconds=state.gpu_ms / 1000,
        training_tokens_done=training_total if trained else min(state.training_tokens, training_total),
        training_tokens_total=training_total,
        updated_at=_time(state.updated_at),
    )
    left = tokens_left(now, state.tokens_settled, view.get("text_bytes", 0))  # an earlier version kept no size
    if state.status == "scoring" and left is not None and state.tokens_per_second > 0:
        now.eta_seconds = left / state.tokens_per_second
        # Between the pace of late and that of the whole scoring, and a tenth to either side.
        paces = [left / rate for rate in (state.tokens_per_second, state.tokens_per_second_ever) if rate > 0]
        now.eta_low_seconds, now.eta_high_seconds = 0.9 * min(paces), 1.1 * max(paces)
    return now


def tokens_left(now: Progress, settled: int, text_bytes: int) -> float | None:
    """About how many tokens are still to be scored, or None while nothing tells.

    By the shards that are done, which have `settled` tokens. While there are none, by the lower of two numbers that are
    too high rather than too low: what the size of the text may be in tokens, and what the documents that are done had
    for each, as the long ones come first.
    """
    if settled and now.shards_total:
        return max(0.0, settled * now.shards_total / now.shards_done - now.tokens_done)
    most = [text_bytes / _BYTES_A_TOKEN] if text_bytes else []
    if now.documents_total and now.documents_done:
        most.append(now.tokens_done * now.documents_total / now.documents_done)
    return max(0.0, min(most) - now.tokens_done) if most else None


def started_at(state: JobState | None, view: dict[str, Any]) -> datetime | None:
    """When the job's planning began, or None while it is queued."""
    if view["started_at"] is not None:
        return datetime.fromisoformat(view["started_at"])
    return _time(state.started_at) if state else None


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc) if milliseconds is not None else None
