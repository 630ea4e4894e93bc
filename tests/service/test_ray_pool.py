"""A pool on a real Ray cluster of two nodes: one is killed in the middle of a job, idle workers go, and it drains."""

import signal
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.contract.schemas import Job, JobRequest
from service.jobs.jobs import Jobs
from service.run import subprocesses as child
from service.run.settings import Settings
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker
from tests.service.artefacts import manifest_path
from tests.service.pool import until, write_corpus

pytest.importorskip("ray", reason="Ray is not installed: make test-ray installs it and runs this")
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster on addresses of the loopback: its head has room for one worker, and tests add nodes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": 100 << 20, "node_ip_address": "127.0.0.2"}
        cluster = Cluster(initialize_head=True, head_node_args=head | {"include_dashboard": False})
        yield cluster
        cluster.shutdown()


@pytest.fixture
def start_pool(cluster: Any, redis_url: str, workspace: Workspace) -> Iterator[Start]:
    """Starts `winnow pool` for this test's workspace; the test's end kills it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(idle_seconds: float = 60) -> "subprocess.Popen[bytes]":
        settings = Settings(
            workspace=workspace.storage.url,
            redis=redis_url,
            device="cpu",
            lease_seconds=2,
            ray=cluster.address,
            workers=2,
        )
        code = f"import service.run.ray_pool as pool; pool.IDLE_SECONDS = {idle_seconds}; "
        code += "from service.commands.cli import main; sys.exit(main(['pool']))"
        started.append(child.start(child.python(code), death_signal=signal.SIGKILL, env=settings.environment()))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def workers(pool: "subprocess.Popen[bytes]") -> dict[int, int]:
    """The worker processes that a pool's actors keep: process id -> that of its node's raylet."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            command, env = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"from service.run.worker_process import main" in command and f"-{pool.pid}-".encode() in command:
            variables = dict(pair.partition(b"=")[::2] for pair in env.split(b"\0"))
            found[int(entry.name)] = int(variables.get(b"RAY_RAYLET_PID", b"0"))
    return found


def test_a_node_killed_in_the_middle_of_a_job_changes_nothing(
    cluster: Any,
    start_pool: Start,
    jobs: Jobs,
    redis: Any,
    workspace: Workspace,
    make_request: Callable[..., JobRequest],
    wait_for: Callable[..., Job],
    tmp_path: Path,
) -> None:
    request = make_request(write_corpus(tmp_path / "corpus", files=4, documents=100, words=300))
    alone = Jobs(Workspace(str(tmp_path / "alone")), redis)
    expected, _ = alone.create(request)
    worker = PoolWorker(alone, ModelLoader("cpu"), RESOURCES, "alone")
    while worker.once():
        pass

    def manifest(jobs: Jobs, job: Job) -> bytes:
        return jobs.workspace.storage.read_bytes(manifest_path(jobs.workspace, job.id))

    lost = cluster.add_node(num_cpus=1, object_store_memory=100 << 20, node_ip_address="127.0.0.3")
    pool = start_pool()
    until(lambda: len(set(workers(pool).values())) == 2)  # on a node each
    job, _ = jobs.create(request)
    until(lambda: len(jobs.queue.holders()) == 2 and jobs.get(job.id).progress.documents_done > 0)
    before = workers(pool)
    cluster.remove_node(lost, allow_graceful=False)
    until(lambda: len(workers(pool)) == 1)
    cluster.add_node(num_cpus=1, object_store_memory=100 << 20, node_ip_address="127.0.0.4")
    until(lambda: len(workers(pool)) == 2)  # Ray has started it again on the new node
    assert len(before.items() & workers(pool).items()) == 1
    ended = wait_for(job.id, "succeeded")
    assert (ended.progress.documents_done, ended.progress.shards_done) == (400, 4)
    assert jobs.queue.stats().totals["scores/documents"] == 400
    assert manifest(jobs, ended) == manifest(alone, expected)


def test_workers_go_when_idle_come_with_work_and_give_it_back_on_sigterm(
    start_pool: Start,
    jobs: Jobs,
    make_request: Callable[..., JobRequest],
    tmp_path: Path,
) -> None:
    pool = start_pool(idle_seconds=1)
    until(lambda: workers(pool))
    until(lambda: not workers(pool))
    job, _ = jobs.create(make_request(write_corpus(tmp_path / "corpus", files=2, documents=200, words=400)))
    until(lambda: jobs.get(job.id).progress.documents_done > 0)
    pool.send_signal(signal.SIGTERM)
    assert pool.wait(30) == 0
    until(lambda: not workers(pool))  # processes that have ended are listed for a moment
    assert jobs.queue.holders() == set()
    leases = [jobs.queue.claim("next", ["gpu"]) for _ in range(2)]
    assert [lease.attempts for lease in leases if lease is not None] == [1, 1]  # given back, not lost
