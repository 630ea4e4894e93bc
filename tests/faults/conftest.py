"""What the fault tests share: sizes of the short and the long form, a seed, figures, a reference, corpora, services.

`--long` asks for the sizes of the long form, and holds the figures to their limits, for which the machine must be idle.
WINNOW_FAULTS_SEED repeats a run.
"""

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.contract.schemas import JobRequest
from service.run import subprocesses as child
from service.run import worker_process
from service.run.redis_server import RedisServer
from service.run.settings import Settings
from service.work.local import prune
from tests.faults.audit import Figures, downloads
from tests.forked import Forked, StartWorker, Worker
from tests.service.pool import train_a_step, write_corpus
from tests.service.serving import Service

_SEED = int(os.environ.get("WINNOW_FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))
_FIGURES: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="fault tests at full size, with their figures held to limits")


def pytest_report_header() -> str:
    return f"faults: seed {_SEED} (WINNOW_FAULTS_SEED repeats it)"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _FIGURES:
        terminalreporter.section(f"figures, seed {_SEED}")
        for line in _FIGURES:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def long(pytestconfig: pytest.Config) -> bool:
    """Whether this is the long form."""
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture
def long_only(long: bool) -> None:
    """Leaves a test to the long form."""
    if not long:
        pytest.skip("part of the long form: make faults")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """This test's own stream of the seed's randomness."""
    return random.Random(f"{_SEED} {request.node.name}")


@pytest.fixture
def figures(request: pytest.FixtureRequest, long: bool) -> Figures:
    return Figures(request.node.name, _FIGURES, held=long)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference that was trained for a step."""
    return train_a_step(tmp_path_factory.mktemp("reference"))


@pytest.fixture(scope="session")
def make_request(tmp_path_factory: pytest.TempPathFactory, reference: Path) -> Callable[..., JobRequest]:
    """Requests on corpora of so many shards of so many documents; equal corpora are written once."""
    made: dict[tuple[int, int, int], Path] = {}

    def make(shards: int, documents: int = 30, words: int = 100, **changes: Any) -> JobRequest:
        size = (shards, documents, words)
        if size not in made:
            made[size] = write_corpus(tmp_path_factory.mktemp("corpus"), *size)
        body: dict[str, Any] = {
            "corpus": {"paths": [str(made[size])], "id_field": "id", "domain_field": "domain"},
            "reference": {"model": str(reference)},
            "selections": [
                *({"criterion": criterion, "rate": 0.5} for criterion in ("low", "medium", "high", "random")),
                {"criterion": "low", "rate": 0.5, "per": "byte"},
            ],
        }
        return JobRequest.model_validate(body | changes)

    return make


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[JobRequest], dict[str, bytes]]:
    """What users download of a job that nothing disturbed, by name; each request is done once, by `winnow prune`."""
    made: dict[str, dict[str, bytes]] = {}

    def make(request: JobRequest) -> dict[str, bytes]:
        key = request.model_dump_json()
        if key not in made:
            folder = tmp_path_factory.mktemp("undisturbed")
            job = prune(request, folder, "cpu", lambda *_: None)
            made[key] = downloads(folder / ".winnow", job.id)
        return made[key]

    return make


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts `winnow serve` on this test's workspace, or on the one given; the test's end kills it."""
    started: list[Service] = []

    def start(workspace: Path = tmp_path / "workspace", **settings: Any) -> Service:
        started.append(Service(workspace, tmp_path / f"log-{len(started)}", **settings))
        return started[-1].ready()

    yield start
    for service in started:
        service.process.kill()
        service.process.wait()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that belongs to no service."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.close()


@pytest.fixture
def start_worker(fork_server: None, long: bool, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts worker processes without a supervisor, by their settings; the test's end kills them.

    They are forked in the short form. In the long form, and where their environment takes effect as a program starts,
    each is a new interpreter.
    """
    started: list[Worker] = []

    def start(name: str, redis: str, env: dict[str, str] | None = None, **settings: Any) -> Worker:
        given: dict[str, Any] = {"workspace": str(tmp_path / "workspace"), "device": "cpu", "lease_seconds": 2}
        environment = Settings(redis=redis, **(given | settings)).environment() | (env or {})
        if long or env:
            command = child.python(f"from service.run.worker_process import main; main({name!r})")
            started.append(child.start(command, death_signal=signal.SIGKILL, env=environment))
        else:
            started.append(Forked(worker_process.main, name, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB; skipped where the machine does not let us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def clock_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that moves the clock of the processes that it is preloaded into."""
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    try:
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source)], check=True)
    except FileNotFoundError:
        pytest.skip("moving the clock needs a C compiler")
    return library
