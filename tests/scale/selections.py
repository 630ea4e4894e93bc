"""`make scale-selections`: one more selection of a job of 10^8 documents, from the request until its manifest is there.

The job's shards are scored already: `winnow serve` and two workers index it and make its first selections. Then each
further selection is asked for over HTTP. `python -m tests.scale.selections 1e7` measures another number. Status 1 if a
target is missed.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from pruner.tables.stored_table import StoredTable
from service.contract.schemas import JobRequest
from service.kinds import index
from service.store.workspace import Workspace
from tests.scale.figures import Figure, show
from tests.scale.processes import cpu_seconds, peak_mib
from tests.scale.scored_job import make_scored_job
from tests.service.artefacts import files_of, manifest_path
from tests.service.pool import until
from tests.service.serving import Service

JOB = "scored"
WORKERS = 2
SECONDS, RANKING_SECONDS = 60.0, 180.0
WAIT_SECONDS = 7_200.0
REQUEST: dict[str, Any] = {
    "corpus": {"paths": ["/corpus"], "domain_field": "domain", "id_field": "id"},
    "reference": {"model": "/model"},
    "selections": [{"criterion": "medium", "rate": 0.3}, {"criterion": "high", "rate": 0.1}],
}
MORE: list[tuple[str, dict[str, Any], float]] = [  # what is asked for, and the seconds that it may take
    ("medium 0.5", {"criterion": "medium", "rate": 0.5}, SECONDS),
    ("high 0.3, by tokens", {"criterion": "high", "rate": 0.3, "unit": "tokens"}, SECONDS),
    ("low 0.3, within domains", {"criterion": "low", "rate": 0.3, "within": "domain"}, SECONDS),
    ("medium 0.3, per byte: ranks all anew", {"criterion": "medium", "rate": 0.3, "per": "byte"}, RANKING_SECONDS),
    ("medium 0.5, per byte", {"criterion": "medium", "rate": 0.5, "per": "byte"}, SECONDS),
]


def measure(folder: Path, rows: int) -> list[Figure]:
    """All figures."""
    workspace = make_scored_job(folder / "workspace", JOB, JobRequest.model_validate(REQUEST), rows)
    # One of the workers is that for light tasks, which is always there.
    service = Service(folder / "workspace", folder / "serve.log", workers=WORKERS - 1, lease_seconds=15)
    try:
        service.ready()
        children = until(lambda: found if len(found := service.children()) == WORKERS + 1 else None)
        workers = [pid for name, pid in children.items() if name != "redis"]
        figures: list[Figure] = []

        def timed(name: str, step: Callable[[], Any], target: float | None = None) -> Any:
            """Does a step; notes its time, and the CPU time of the workers meanwhile."""
            begun, before = time.perf_counter(), sum(map(cpu_seconds, workers))
            result = step()
            figures.append(Figure(name, "s", time.perf_counter() - begun, target))
            figures.append(Figure("    CPU time of the workers", "s", sum(map(cpu_seconds, workers)) - before))
            return result

        indexed = timed("index", lambda: until(lambda: index.find(files_of(workspace, JOB)), WAIT_SECONDS))
        done = partial(until, lambda: service.job(JOB)["status"] == "succeeded", WAIT_SECONDS)
        timed("comparison, two selections, report", done)
        with httpx.Client(base_url=service.url, timeout=60) as client:
            for name, asked, target in MORE:
                check(workspace, timed(name, partial(one_more, client, asked), target), indexed.counts.eligible)
        figures.append(Figure("memory of a worker at most, mapped files included", "MiB", max(map(peak_mib, workers))))
        return figures
    finally:
        service.process.terminate()
        service.process.wait()


def one_more(client: httpx.Client, asked: dict[str, Any]) -> Any:
    """Asks for a selection and waits until the job shows it."""
    answer = client.post(f"/v1/jobs/{JOB}/selections", json=asked)
    assert answer.status_code in (201, 202), answer.text
    if answer.status_code == 201:
        return answer.json()

    def shown() -> Any:
        job = client.get(f"/v1/jobs/{JOB}").json()
        assert job["status"] == "succeeded", job["error"]
        return next((made for made in job["selections"] if asked.items() <= made.items()), None)

    return until(shown, WAIT_SECONDS)


def check(workspace: Workspace, made: Any, eligible: int) -> None:
    """Whether the manifest has as many rows as the selection keeps, and these are its share of the eligible ones."""
    rows = StoredTable(workspace.storage, manifest_path(workspace, JOB, made["id"])).rows
    assert rows == made["documents"], made
    if made["unit"] == "documents":
        assert abs(rows - made["rate"] * eligible) <= (0.5 if made["within"] is None else 500), made


def main() -> int:
    """Prints a table; returns the exit status."""
    rows = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**8
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        figures = measure(Path(name), rows)
    return show({f"{rows:,} documents": figures})


if __name__ == "__main__":
    sys.exit(main())
