"""The view model of the list of jobs: a row for each, with its duration, its selections and why it failed."""

from datetime import datetime, timezone
from typing import Any, NamedTuple

from pruner.spec import SelectionSpec
from service.contract.names import ENDED
from service.page.format import duration, time
from service.page.progress_view import STAGES, time_left

_SELECTIONS_MAX = 3  # named in a row
_REASON_MAX = 160  # characters


class JobRow(NamedTuple):
    """A job of the list. `now` says what a job that has not ended does, `reason` why one failed."""

    job: dict[str, Any]
    now: str
    reason: str
    duration: str
    selections: list[str]
    more: int  # selections that are not named


def job_row(job: dict[str, Any], now: datetime | None = None) -> JobRow:
    """The row of a job."""
    specs = job["request"]["selections"]
    made = job["selections"] or [{"id": SelectionSpec.model_validate(spec).id} for spec in specs[:_SELECTIONS_MAX]]
    ended = job["status"] in ENDED
    reason = job["error"]["detail"] if job["error"] else ""
    return JobRow(
        job,
        "" if ended else job["progress"]["waiting_for"] or f"{STAGES[job['status']]}, {time_left(job)}".rstrip(", "),
        reason if len(reason) <= _REASON_MAX else reason[:_REASON_MAX] + "…",
        _duration(job, now or datetime.now(timezone.utc)),
        [selection["id"] for selection in made[:_SELECTIONS_MAX]],
        max(len(job["selections"]), len(specs)) - min(len(made), _SELECTIONS_MAX),
    )


def _duration(job: dict[str, Any], now: datetime) -> str:
    """From the start to the end, or so far; empty for a job that has not started."""
    if job["started_at"] is None:
        return ""
    started = time(job["started_at"])
    if job["finished_at"] is None:
        return f"{duration((now - started).total_seconds())} so far"
    return duration((time(job["finished_at"]) - started).total_seconds())
