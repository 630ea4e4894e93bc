"""A job without results on its page and in the list: its stage and time left, what it waits for, what remains."""

from datetime import datetime, timezone
from typing import Any

import pytest

from service.contract.schemas import JobRequest, Progress
from service.page.job_list import job_row
from service.page.progress_view import doing, progress_values, remains
from service.page.render import render


def job(status: str = "scoring", **changes: Any) -> dict[str, Any]:
    """A job as the API returns it; `changes` are of its progress."""
    request = JobRequest.model_validate({"corpus": {"paths": ["a"]}}).model_dump(mode="json")
    return {
        "id": "a",
        "status": status,
        "created_at": "2026-11-30T10:00:00Z",
        "started_at": "2026-11-30T10:01:00+00:00",
        "finished_at": None,
        "request": request,
        "reference": None,
        "selections": [],
        "error": None,
        "progress": Progress().model_dump(mode="json") | changes,
    }


def progress_html(status: str, **changes: Any) -> str:
    """The part of the page that follows a job."""
    shown = job(status, **changes)
    return render("_live.html", job=shown, partial=None, plots=[], **progress_values(shown, []))


def test_the_stage_and_the_time_left_come_first() -> None:
    html = progress_html("scoring", eta_seconds=180.0, documents_done=5, documents_total=10, shards_total=3)
    assert html.index("Scoring the documents") < html.index("about 3 min left") < html.index("5 of 10 documents")
    assert html.index("5 of 10 documents") < html.index("0 of 3")
    assert "time left not known yet" in progress_html("scoring")
    assert "about 3 min left of the training, then scoring" in progress_html("training", eta_seconds=180.0)


def test_the_reason_for_waiting_is_shown_as_text() -> None:
    assert "<strong>Waiting:</strong> No worker &lt;gpu&gt;." in progress_html("queued", waiting_for="No worker <gpu>.")


def test_no_words_of_the_queue_are_shown() -> None:
    html = progress_html("scoring", documents_done=5, shards_total=3, shards_leased=2, shards_failed=1)
    assert "2 in work, 1 tried again after an error" in html
    assert not {"shard", "lease", "heartbeat"} & set(html.lower().replace("s ", " ").split())


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("scores:17", "scoring, part 18"),
        ("scores/big:0", "scoring (big), part 1"),
        ("corpus:0", "listing the files"),
        ("selection/medium-0.5:0", "making a selection (medium-0.5)"),
        ("of-a-new-kind:3", "of-a-new-kind"),
    ],
)
def test_what_a_worker_does_is_said_in_words(task: str, said: str) -> None:
    assert doing(task) == said


def test_what_remains_of_a_failed_job() -> None:
    assert remains(job("failed")).startswith("Nothing was scored")
    some = job("failed", shards_done=2, shards_total=5)
    assert remains(some).startswith("The scores of 2 of 5 parts are kept. A job over the same files")
    trained = some | {"reference": {"tokens": 1}}
    assert "are kept, and so is the reference that it trained." in remains(trained)
    assert remains(job("failed") | {"reference": {"tokens": 1}}).startswith("The reference that it trained is kept.")


def test_a_row_of_the_list_has_duration_selections_and_reason() -> None:
    now = datetime(2026, 11, 30, 10, 5, tzinfo=timezone.utc)
    row = job_row(job(eta_seconds=60.0), now)
    assert (row.now, row.duration) == ("Scoring the documents, about 60 s left", "4 min so far")
    assert (row.selections, row.more, row.reason) == (["medium-0.5"], 0, "")
    ended = {"status": "failed", "finished_at": "2026-11-30T10:03:00Z", "error": {"detail": "x" * 500}}
    failed = job_row(job() | ended, now)
    assert (failed.now, failed.duration, failed.reason) == ("", "2 min", "x" * 160 + "…")
    made = job_row(job() | {"selections": [{"id": f"low-0.{rate}"} for rate in range(1, 6)]}, now)
    assert (made.selections, made.more) == (["low-0.1", "low-0.2", "low-0.3"], 2)
    assert job_row(job(waiting_for="No worker is running."), now).now == "No worker is running."
    assert job_row(job("queued") | {"started_at": None}, now).duration == ""
