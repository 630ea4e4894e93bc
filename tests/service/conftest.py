"""What the service's tests share beside Redis: one small trained reference a session, corpora, and workers."""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.contract.schemas import Job, JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run import worker_process
from service.run.settings import Settings
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker
from tests.forked import Forked, StartWorker
from tests.service.api_server import client, serving
from tests.service.pool import train_a_step, until, write_corpus


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that was trained for a step: small, real, and quick to score with."""
    return train_a_step(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def make_request(reference: Path, corpus: Path) -> Callable[..., JobRequest]:
    """Requests on the session's corpus and reference; keyword arguments replace parts of them."""

    def make(paths: Path | None = None, **changes: Any) -> JobRequest:
        body: dict[str, Any] = {
            "corpus": {"paths": [str(paths or corpus)], "id_field": "id", "domain_field": "domain"},
            "reference": {"model": str(reference)},
        }
        return JobRequest.model_validate(body | changes)

    return make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs tests marked `every_workspace` on each kind of workspace; with WORKSPACE=s3 all run on that one."""
    if "workspace" in metafunc.fixturenames:
        kinds = ["disk", "s3"] if metafunc.definition.get_closest_marker("every_workspace") else ["disk"]
        only = os.environ.get("WORKSPACE")
        metafunc.parametrize("workspace", [only] if only else kinds, indirect=True)


@pytest.fixture
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    if request.param == "disk":
        return Workspace(str(tmp_path / "workspace"))
    bucket = request.getfixturevalue("s3_url")
    request.getfixturevalue("monkeypatch").setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Workspace(f"{bucket}/workspace")


@pytest.fixture
def jobs(workspace: Workspace, redis: Any) -> Jobs:
    return Jobs(workspace, redis)


@pytest.fixture
def worker(jobs: Jobs) -> PoolWorker:
    """A worker in this process, for tests that need no second one."""
    return PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "here")


@pytest.fixture
def work_off(worker: PoolWorker) -> Callable[[], None]:
    """Does tasks until none is claimable."""

    def work() -> None:
        while worker.once():
            pass

    return work


@pytest.fixture
def start_worker(fork_server: None, redis_url: str, workspace: Workspace, jobs: Jobs) -> Iterator[StartWorker]:
    """Starts worker processes on this test's workspace; the test's end kills them."""
    jobs.check()  # else a worker may rebuild the queue just when the test submits a job, which is refused then
    started: list[Forked] = []

    def start(name: str | None = None, **settings: Any) -> Forked:
        given = {"workspace": workspace.storage.url, "redis": redis_url, "device": "cpu", "lease_seconds": 2}
        env = Settings(**(given | settings)).environment()
        name = name or f"worker-{uuid.uuid4().hex[:6]}"
        started.append(Forked(worker_process.main, name, env=env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def wait_for(jobs: Jobs) -> Callable[..., Job]:
    """Waits until a job has one of these statuses, or has ended, and gives the job."""

    def wait(job_id: str, *statuses: str, seconds: float = 240) -> Job:
        def reached() -> Job | None:
            job = jobs.get(job_id)
            return job if job.status in (*statuses, "succeeded", "failed", "cancelled") else None

        job: Job = until(reached, seconds)
        assert not statuses or job.status in statuses, job.error
        return job

    return wait


@pytest.fixture
def api(jobs: Jobs) -> Iterator[httpx.Client]:
    """The HTTP API over this test's jobs, by a real server on a real socket."""
    with serving(jobs) as url, client(url) as made:
        yield made


@pytest.fixture(scope="session")
def pruned_workspace(
    tmp_path_factory: pytest.TempPathFactory, redis_url: str, make_request: Callable[..., JobRequest]
) -> Workspace:
    """A workspace with one job, which has succeeded."""
    jobs = Jobs(Workspace(str(tmp_path_factory.mktemp("pruned"))), connect(redis_url))
    jobs.create(make_request())
    worker = PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "before")
    while worker.once():
        pass
    return jobs.workspace


@pytest.fixture
def pruned(api: httpx.Client, jobs: Jobs, pruned_workspace: Workspace) -> dict[str, Any]:
    """A job that has succeeded, in a workspace that has the files of `pruned_workspace` and a name of its own."""
    source = pruned_workspace.storage
    for file in source.files(""):
        if file.path != "workspace.json":
            jobs.workspace.storage.write_bytes(file.path, source.read_bytes(file.path))
    jobs.recover()
    (job_id,) = jobs.workspace.jobs()
    done: dict[str, Any] = api.get(f"/v1/jobs/{job_id}").json()
    assert done["status"] == "succeeded", done["error"]
    return done


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; skipped where the machine does not let us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
