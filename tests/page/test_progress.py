"""The progress of a running job on its page."""

from typing import Any

from service.contract.schemas import Progress
from service.page.render import render


def progress_html(**changes: Any) -> str:
    """The part of the page that follows a queued job."""
    progress = Progress().model_dump(mode="json") | changes
    job = {"id": "a", "status": "queued", "progress": progress, "request": {"reference": {"train": None}}}
    return render("_live.html", job=job, live=True, stages=["queued"], workers=[], partial=None, plots=[])


def test_the_reason_for_waiting_is_shown_as_text() -> None:
    assert "waits for a worker &lt;gpu&gt;" in progress_html(waiting_for="The job waits for a worker <gpu>.")


def test_the_time_left_is_one_duration() -> None:
    assert "not known yet" in progress_html(eta_seconds=None)
    assert "about 3 min" in progress_html(eta_seconds=180.0)
