"""The images in containers, as deploy/compose.yaml runs them, with a worker on CPUs: `make test-images`.

Needs a Docker engine with the images that `make images` builds.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.client import Client
from tests.service.pool import until, write_corpus
from tests.test_house import ROOT

pytestmark = pytest.mark.skipif(not os.environ.get("WINNOW_TEST_IMAGES"), reason="make test-images runs this")
FILES, DOCUMENTS = 3, 600  # of the corpus; documents of a file
SERVICES = ("api", "worker", "redis")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass(frozen=True)
class Deployment:
    """A project of Docker Compose."""

    environment: dict[str, str]

    def compose(self, *arguments: str, check: bool = True) -> str:
        """What a command of Docker Compose prints."""
        compose = pytest.importorskip("compose", reason="Docker Compose is not installed: make test-images installs it")
        command = [str(Path(compose.__file__).with_name("docker-compose")), "--file", str(ROOT / "deploy/compose.yaml")]
        done = subprocess.run([*command, *arguments], env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout.strip()

    def run_in(self, name: str, script: str, check: bool = True) -> str:
        """What a shell script prints in a container of a service."""
        return self.compose("exec", "--no-TTY", name, "sh", "-c", script, check=check)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What Docker Compose tells of the container of each service."""
        told = [json.loads(line) for line in self.compose("ps", "--all", "--format", "json").splitlines()]
        return {each["Service"]: each for each in told}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The services of compose.yaml, all of them healthy."""
    corpora = tmp_path_factory.mktemp("corpora")
    write_corpus(corpora, FILES, DOCUMENTS)
    corpora.chmod(0o755)  # the user of the containers is another one
    own = {
        "COMPOSE_PROJECT_NAME": f"winnow-test-{os.getpid()}",
        "WINNOW_CORPORA": str(corpora),
        "WINNOW_LISTEN": f"127.0.0.1:{free_port()}",
    }
    made = Deployment(os.environ | own)
    try:
        made.compose("up", "--detach", "--no-build", "--pull", "never", "--wait", "--wait-timeout", "240")
        yield made
    finally:
        sys.stdout.write(made.compose("logs", "--tail", "50"))  # pytest shows it where a test fails
        made.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture(scope="module")
def client(deployment: Deployment) -> Iterator[Client]:
    key = deployment.run_in("api", "winnow keys make tester --role submit").splitlines()[-1]
    with Client(f"http://{deployment.environment['WINNOW_LISTEN']}", key) as made:
        yield made


@pytest.fixture(scope="module")
def job_id(deployment: Deployment, client: Client) -> str:
    """A job that has succeeded, though every process of the worker was killed while it trained or scored."""
    request = {
        "corpus": {"paths": ["/corpora"], "id_field": "id", "domain_field": "domain"},
        "reference": {"train": {"preset": "tiny", "tokens": 20_000}},
        "selections": [{"criterion": "medium", "rate": 0.5}],
    }
    job = client.create_job(request)
    until(lambda: client.get_job(job.id).status in ("training", "scoring"))
    deployment.run_in("worker", "kill -9 -1", check=False)  # not the init process, which ends after its child
    assert client.get_job(job.id).finished_at is None
    assert client.wait_for_job(job.id).status == "succeeded"
    return job.id


def test_a_job_ends_with_its_manifest_though_the_worker_was_killed(client: Client, job_id: str, tmp_path: Path) -> None:
    job = client.get_job(job_id)
    assert job.progress.documents_done == FILES * DOCUMENTS
    client.download_manifest(job_id, "medium-0.5", tmp_path / "manifest.parquet")
    kept = pq.read_table(tmp_path / "manifest.parquet")
    assert len(kept) == job.selections[0].documents > 0.4 * FILES * DOCUMENTS
    assert {path.rpartition("/")[0] for path in kept["file"].to_pylist()} == {"/corpora"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_healthy_also_after_a_kill(deployment: Deployment, job_id: str, name: str) -> None:
    until(lambda: deployment.containers()[name]["Health"] == "healthy")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_without_privileges_on_a_read_only_file_system(deployment: Deployment, name: str) -> None:
    user = deployment.run_in(name, "id -u")
    assert user == (deployment.run_in(name, "id -u redis") if name == "redis" else "65532")
    status = dict(line.split(":\t", 1) for line in deployment.run_in(name, "cat /proc/1/status").splitlines())
    assert int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    _, folder, _, options, *_ = deployment.run_in(name, "grep ' / ' /proc/mounts").split(" ")
    assert (folder, options.split(",")[0]) == ("/", "ro")


def test_the_images_carry_licence_notices_of_what_they_hold(deployment: Deployment) -> None:
    notices = {name: deployment.run_in(name, "cat /opt/winnow/LICENCES.txt") for name in ("api", "worker")}
    assert all("winnow " in text and "pyarrow " in text for text in notices.values())
    assert ["torch " in text for text in notices.values()] == [False, True]
    for name, text in notices.items():
        path = next(line.strip() for line in text.splitlines() if line.strip().startswith("winnow-"))
        assert "Apache License" in deployment.run_in(name, f"cat /opt/winnow/lib/python*/site-packages/{path}")


def test_a_stop_is_clean_and_a_start_finds_the_job_again(deployment: Deployment, client: Client, job_id: str) -> None:
    deployment.compose("stop")
    ended = {name: (each["State"], each["ExitCode"]) for name, each in deployment.containers().items()}
    assert ended == dict.fromkeys(SERVICES, ("exited", 0))
    logs = deployment.compose("logs", "--no-color", "--no-log-prefix")
    assert "Traceback" not in logs
    deployment.compose("start")
    job = client.get_job(job_id)
    assert job.status == "succeeded"
    assert client.wait_for_job(client.create_job(job.request).id).status == "succeeded"  # its scores are used again
