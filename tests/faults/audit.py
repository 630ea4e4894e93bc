"""What is looked at after each fault: that nothing was lost, doubled or left behind; and the figures of a run."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from redis import Redis

from service.contract.schemas import JobRequest
from service.jobs.lifecycle import Lifecycle
from service.queue.local import LocalQueue
from service.run.redis_server import address
from service.store.workspace import Workspace
from tests.service.artefacts import results, table_path
from tests.service.pool import until

# Keys that remain when every job has ended, besides those of the jobs themselves and the lists of their ids.
_LASTING = {"totals", "workers:light", "workers:gpu", "fence", "clock", "epoch"}
_SETTLE_SECONDS = 30.0


class Figures:
    """The figures of one test: printed in the end, and in the long form held to their limits."""

    def __init__(self, test: str, lines: list[str], held: bool) -> None:
        self._test, self._lines, self._held = test, lines, held

    def say(self, text: str) -> None:
        """Notes a figure."""
        self._lines.append(f"{self._test}: {text}")

    def times(self, what: str, seconds: Sequence[float], limit: float) -> None:
        """Notes how a time was distributed, which is never to be over a limit."""
        if not seconds:
            self.say(f"{what}: never seen")
            return
        ordered = sorted(seconds)
        p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
        self.say(
            f"{what}: median {statistics.median(ordered):.3f} s, 95 % {p95:.3f} s, most {ordered[-1]:.3f} s "
            f"of {len(ordered)} (limit {limit:.3f} s)"
        )
        if self._held:
            assert ordered[-1] <= limit, f"{what} took {ordered[-1]:.3f} s"


def private_redis(workspace: Path) -> "Redis":
    """A client of the Redis that `winnow serve` keeps for a workspace."""
    return Redis.from_url(address(workspace / "redis"), decode_responses=True)


def prefix(workspace: Path) -> str:
    """What the names of all keys of a workspace begin with."""
    name = json.loads((workspace / "workspace.json").read_text())["id"]
    return f"winnow:{{{name}}}:"


def leases(redis: Any, workspace: Path, job_id: str) -> dict[str, dict[str, Any]]:
    """The tasks of a job that are held now: task -> what its lease says."""
    found = redis.hgetall(f"{prefix(workspace)}lease:{job_id}")
    entries = {task: json.loads(entry) for task, entry in found.items()}
    return {task: entry for task, entry in entries.items() if entry["fence"]}


def given_back(redis: Any, workspace: Path, job_id: str, held: dict[str, dict[str, Any]]) -> bool:
    """Whether none of these leases is in force any more."""
    now = leases(redis, workspace, job_id)
    return all(task not in now or now[task]["fence"] != entry["fence"] for task, entry in held.items())


def downloads(workspace: Path, job_id: str) -> dict[str, bytes]:
    """Every file of a job that a user can download."""
    files = Workspace(str(workspace))
    lifecycle = Lifecycle(files, LocalQueue())
    lifecycle.advance(job_id)  # of a job that has ended: only shows it
    record = files.job(job_id)
    assert record is not None
    return results(files, lifecycle.show(record, lifecycle.queue.state(job_id)))


def audit(
    workspace: Path, redis: Any, job: dict[str, Any], request: JobRequest, expected: dict[str, bytes], shards: int
) -> None:
    """Holds a job that has ended, with all others of its workspace, to what an undisturbed run gives and leaves."""
    assert job["status"] == "succeeded", job["error"]
    assert job["progress"]["shards_done"] == shards
    found = downloads(workspace, job["id"])
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert _rows(workspace, job["id"]) == _documents(request)
    assert job["progress"]["documents_done"] == len(_documents(request))
    nothing_left(workspace, redis)


def nothing_left(workspace: Path, redis: Any) -> None:
    """That no half file, no lock of a job and no task is left once the workers have put down what they held."""
    start = prefix(workspace)

    def others() -> list[str]:
        keys = {key.removeprefix(start) for key in redis.scan_iter(start.replace("{", "[{]").replace("}", "[}]") + "*")}
        return sorted(key for key in keys - _LASTING if not key.startswith(("job:", "count:", "label:")))

    def parts() -> list[Path]:
        names = ("*.part", "room")
        return [path for name in names for path in workspace.rglob(name) if "redis" not in path.parts]

    with suppress(AssertionError):
        until(lambda: not others() and not parts(), _SETTLE_SECONDS)
    left = (others(), parts())
    assert left == ([], []), left
    for path in workspace.glob("scores/*/*.parquet"):
        pq.read_metadata(path)


def _rows(workspace: Path, job_id: str) -> list[tuple[str, int]]:
    path = table_path(Workspace(str(workspace)), job_id, "scores.parquet")
    table = pq.read_table(workspace / path, columns=["file", "row"])
    return [(row["file"], row["row"]) for row in table.to_pylist()]


def _documents(request: JobRequest) -> list[tuple[str, int]]:
    """(file, row) of every document of a corpus of Parquet folders, in order."""
    files = [str(file) for folder in request.corpus.paths for file in sorted(Path(folder).glob("*.parquet"))]
    return sorted((file, row) for file in files for row in range(pq.read_metadata(file).num_rows))


def timed(condition: Callable[[], Any]) -> float:
    """Seconds until something is so."""
    started = time.monotonic()
    until(condition)
    return time.monotonic() - started
