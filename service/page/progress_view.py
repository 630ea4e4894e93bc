"""The view model of a job without results: its stage and time left in words, its workers, what a failed one leaves."""

from typing import Any

from service.contract.names import ENDED, STATUSES
from service.page.format import duration, number

STAGES = {
    "queued": "Waiting to start",
    "planning": "Reading the list of files",
    "training": "Training the reference model",
    "scoring": "Scoring the documents",
    "selecting": "Making the selections",
}
_TASKS = {
    "corpus": "listing the files",
    "model": "training or loading the reference",
    "prior": "counting tokens",
    "scores": "scoring",
    "classifier": "scoring by a classifier",
    "documents": "reading the documents",
    "field": "reading a field",
    "index": "sorting the scores",
    "order": "sorting the scores",
    "selection": "making a selection",
    "comparison": "comparing the scores",
    "report": "writing the report",
}  # by kind, what a worker does
_BY_PARTS = {"scores", "classifier", "documents", "field"}  # kinds with a task for each part of the corpus


def progress_values(job: dict[str, Any], workers: list[dict[str, Any]]) -> dict[str, Any]:
    """The template values of a job that has no results."""
    return {
        "live": job["status"] not in ENDED,
        "stages": [status for status in STATUSES if status in STAGES],
        "headline": STAGES.get(job["status"], ""),
        "time_left": time_left(job),
        "workers": [worker | {"doing": doing(worker["task"])} for worker in workers],
        "remains": remains(job),
    }


def time_left(job: dict[str, Any]) -> str:
    """How long the job still takes, as far as it is known."""
    seconds = job["progress"]["eta_seconds"]
    if seconds is None:
        return "" if job["status"] == "selecting" else "time left not known yet"
    if job["status"] == "training":
        return f"about {duration(seconds)} left of the training, then scoring"
    return f"about {duration(seconds)} left"


def doing(task: str) -> str:
    """What a worker with a task does, such as `scoring, part 3`."""
    node, _, part = task.rpartition(":")
    kind, _, which = node.partition("/")
    words = _TASKS.get(kind, kind) + (f" ({which})" if which else "")
    return f"{words}, part {number(int(part) + 1)}" if kind in _BY_PARTS else words


def remains(job: dict[str, Any]) -> str:
    """What is left of the work of a job that ended without results."""
    progress = job["progress"]
    done, total = progress["shards_done"], progress["shards_total"]
    again = "A job over the same files with the same settings goes on from there."
    if done:
        scores = "All scores are" if done == total else f"The scores of {number(done)} of {number(total)} parts are"
        trained = ", and so is the reference that it trained" if job["reference"] is not None else ""
        return f"{scores} kept{trained}. {again}"
    if job["reference"] is not None:
        return f"The reference that it trained is kept. {again}"
    return "Nothing was scored, so there is nothing to keep. A new job starts from the beginning."
