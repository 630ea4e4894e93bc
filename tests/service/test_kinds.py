"""Kinds of artefacts: the registry, sharing between jobs, and a new kind through real workers that are killed."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.contract.schemas import Job, JobRequest
from service.jobs.jobs import Jobs
from service.kinds import KINDS
from service.run.settings import Settings
from service.store.workspace import Workspace
from tests.forked import Forked
from tests.service import toy_kind
from tests.service.artefacts import files_of, manifest_path
from tests.service.pool import until

MakeRequest = Callable[..., JobRequest]
StartToyWorker = Callable[[str], Forked]


@pytest.fixture
def start_toy_worker(
    fork_server: None, redis_url: str, workspace: Workspace, tmp_path: Path
) -> Iterator[StartToyWorker]:
    """Starts worker processes that know the kind `toy`."""
    started: list[Forked] = []

    def start(name: str) -> Forked:
        settings = Settings(workspace=workspace.storage.url, redis=redis_url, device="cpu", lease_seconds=1)
        started.append(Forked(toy_kind.main, name, env=settings.environment() | {toy_kind.FOLDER: str(tmp_path)}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_new_kind_runs_on_real_workers_and_its_parts_appear_whole(
    jobs: Jobs,
    workspace: Workspace,
    make_request: MakeRequest,
    start_toy_worker: StartToyWorker,
    wait_for: Callable[..., Job],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(KINDS, "toy", toy_kind)  # type: ignore[arg-type]  # a module
    victim = start_toy_worker("victim")
    job, _ = jobs.create(make_request())
    until(lambda: toy_kind.waiting(tmp_path))
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    (folder,) = workspace.storage.list("toy") or [""]
    assert workspace.storage.list(f"toy/{folder}") == []  # half a part is no part
    (tmp_path / "go").touch()
    start_toy_worker("heir")
    assert wait_for(job.id, "succeeded").error is None
    (folder,) = workspace.storage.list("toy")
    parts = [workspace.storage.read_bytes(f"toy/{folder}/{part}") for part in range(toy_kind.PARTS)]
    assert parts == [2 * toy_kind.HALF] * toy_kind.PARTS
    state = jobs.queue.state(job.id)
    assert state is not None
    counters = state.counters["toy"]
    assert (counters["parts"], counters["things"]) == (toy_kind.PARTS, 2 * toy_kind.PARTS)
    assert jobs.queue.stats().totals["toy/things"] == 2 * toy_kind.PARTS


def test_jobs_over_the_same_files_share_their_artefacts(
    jobs: Jobs, make_request: MakeRequest, work_off: Callable[[], None]
) -> None:
    first, _ = jobs.create(make_request())
    work_off()
    shared = {kind: set(jobs.workspace.storage.list(kind)) for kind in KINDS}
    second, _ = jobs.create(make_request())
    work_off()
    assert jobs.get(second.id).status == "succeeded"
    assert {kind: set(jobs.workspace.storage.list(kind)) for kind in KINDS} == shared
    assert manifest_path(jobs.workspace, first.id) == manifest_path(jobs.workspace, second.id)
    low = make_request(selections=[{"criterion": "low", "rate": 0.5}])
    third, _ = jobs.create(low)
    work_off()
    again = {kind: set(jobs.workspace.storage.list(kind)) for kind in KINDS}
    assert {kind for kind in KINDS if again[kind] != shared[kind]} == {"selection", "report"}
    assert files_of(jobs.workspace, third.id).corpus is not None


def test_other_files_other_fields_or_another_reference_are_other_artefacts(
    jobs: Jobs, make_request: MakeRequest, work_off: Callable[[], None], corpus: Path
) -> None:
    plain, _ = jobs.create(make_request(corpus={"paths": [str(corpus)]}))
    work_off()
    before = set(jobs.workspace.storage.list("index"))
    jobs.create(make_request())
    work_off()
    assert len(set(jobs.workspace.storage.list("index")) - before) == 1
    assert jobs.get(plain.id).status == "succeeded"
