"""`winnow serve` as a process: ready, working, killed in part and whole, and gone without a trace."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pruner.errors import InputError
from service.contract.schemas import JobRequest
from service.run import supervisor
from service.run.redis_server import RedisServer, address
from service.run.supervisor import redis_folder
from service.store.workspace import Workspace
from tests.forked import StartWorker
from tests.service.pool import until, write_corpus
from tests.service.serving import Service, gone

MakeRequest = Callable[..., JobRequest]


def scores(workspace: Path) -> dict[Path, int]:
    """The score files there are, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in workspace.glob("scores/*/*.parquet")}


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    started: list[Service] = []

    def start(workspace: Path | str = tmp_path / "workspace", **settings: Any) -> Service:
        started.append(Service(workspace, tmp_path / f"log-{len(started)}", **settings))
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.wait()


@pytest.fixture(scope="session")
def slow_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("slow"), files=3, documents=100, words=400)


def test_a_service_works_alone_in_its_workspace_and_leaves_no_process_behind(
    serve: Callable[..., Service], make_request: MakeRequest, slow_corpus: Path, tmp_path: Path
) -> None:
    service = serve().ready()
    children = until(lambda: len(service.children()) == 3 and service.children())
    assert set(children) == {"redis", "light", "0"}
    with pytest.raises(InputError, match="another winnow serve uses this workspace"):
        RedisServer(tmp_path / "workspace" / "redis")
    assert service.ended(service.submit(make_request()))["status"] == "succeeded"
    busy = service.submit(make_request(slow_corpus))
    until(lambda: service.job(busy)["progress"]["documents_done"] > 0)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(10) == 0
    assert gone(list(children.values()))
    assert "Traceback" not in service.output()


def test_an_answer_does_not_wait_for_the_clients_acknowledgement() -> None:
    with supervisor._listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_job_goes_on_when_parts_of_its_service_die_and_when_all_of_it_does(
    serve: Callable[..., Service], make_request: MakeRequest, slow_corpus: Path, tmp_path: Path
) -> None:
    service = serve().ready()
    job = service.submit(make_request(slow_corpus))
    until(lambda: (service.job(job).get("progress") or {}).get("documents_done", 0) > 0)
    for victim in ("0", "redis", "light"):
        old = until(lambda victim=victim: service.children().get(victim))
        os.kill(old, signal.SIGKILL)
        until(lambda victim=victim, old=old: service.children().get(victim, old) != old)
    until(lambda: (service.job(job).get("progress") or {}).get("shards_done", 0) > 0)
    children = list(service.children().values())
    service.process.kill()
    until(lambda: gone(children), 10)
    scored = scores(tmp_path / "workspace")
    assert scored
    service = serve().ready()
    ended = service.ended(job)
    assert (ended["status"], ended["progress"]["documents_done"]) == ("succeeded", 300)
    assert len(scores(tmp_path / "workspace")) == 3
    assert scored.items() <= scores(tmp_path / "workspace").items()


def test_a_service_on_s3_goes_on_after_kill_9_of_everything_and_the_loss_of_its_redis(
    serve: Callable[..., Service],
    start_worker: StartWorker,
    make_request: MakeRequest,
    slow_corpus: Path,
    s3_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    redis = address(redis_folder(Workspace(s3_url)))
    service = serve(s3_url, workers=0).ready()
    worker = start_worker(workspace=s3_url, redis=redis)
    job = service.submit(make_request(slow_corpus))
    until(lambda: service.job(job)["progress"]["shards_done"] >= 1)
    children = [worker.pid, *service.children().values()]
    worker.kill()
    service.process.kill()
    until(lambda: gone(children), 10)
    shutil.rmtree(tmp_path / "cache")
    service = serve(s3_url, workers=0).ready()
    start_worker(workspace=s3_url, redis=redis)
    ended = service.ended(job)
    assert (ended["status"], ended["progress"]["documents_done"]) == ("succeeded", 300)
    found = re.search(r"^winnow_scored_shards_total (.*)$", httpx.get(f"{service.url}/metrics").text, re.MULTILINE)
    assert found is not None
    assert float(found[1]) <= 2  # what was scored before was not scored again


def test_a_redis_whose_data_cannot_be_read_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "appendonly.aof").write_bytes(b"not what Redis writes")
    server = RedisServer(tmp_path)
    try:
        server.start()
        assert server.running
    finally:
        server.close()
    assert not server.running


def test_a_long_path_of_a_workspace_gets_a_short_socket(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / ("long" * 40))
    try:
        server.start()
        assert len(server.url.removeprefix("unix://")) <= 107
    finally:
        server.close()


def test_the_api_needs_no_torch() -> None:
    check = "import service.run.supervisor, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_a_service_where_there_is_no_torch_plans_and_selects(
    serve: Callable[..., Service],
    start_worker: StartWorker,
    make_request: MakeRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('an image without torch')")
    with monkeypatch.context() as without:
        without.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        service = serve(workers=0).ready()
    job = service.submit(make_request())
    until(lambda: service.job(job)["status"] == "scoring")
    folder = tmp_path / "workspace"
    start_worker(workspace=str(folder), redis=address(folder / "redis"), resources=("gpu",))
    assert service.ended(job)["status"] == "succeeded"
    assert set(service.children()) == {"redis", "light"}


def test_a_full_disk_fails_the_job_and_not_the_service(
    serve: Callable[..., Service],
    start_worker: StartWorker,
    make_request: MakeRequest,
    small_disk: Path,
    slow_corpus: Path,
) -> None:
    folder = small_disk / "workspace"
    service = serve(folder, workers=0).ready()
    start_worker(workspace=str(folder), redis=address(folder / "redis"), resources=("gpu",))
    job = service.submit(make_request(slow_corpus))
    until(lambda: service.job(job)["progress"]["documents_done"] > 0)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    failed = service.ended(job)
    assert failed["status"] == "failed"
    assert failed["error"]["status"] == 507
    assert "No space left" in failed["error"]["detail"]
    filler.unlink()
    assert service.ended(service.submit(make_request()))["status"] == "succeeded"
