"""The API killed at every status, the whole service killed at any, and Redis killed, with its data or without."""

import os
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis, RedisError

from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace
from tests.faults.api import main
from tests.faults.audit import Figures, audit, private_redis
from tests.forked import Forked, StartWorker, Worker
from tests.service.pool import NO_TLS, until
from tests.service.serving import Service, gone

MakeRequest = Callable[..., JobRequest]
Undisturbed = Callable[[JobRequest], dict[str, bytes]]
Serve = Callable[..., Service]
TRAIN = {"train": {"preset": "tiny", "tokens": 4000, "fraction": 0.2, "seed": 3}}
ORDER = ("queued", "planning", "training", "scoring", "selecting", "succeeded")
ENDED = ("succeeded", "failed", "cancelled")


class Api:
    """The API on a port that it keeps, to be killed and started again."""

    def __init__(self, workspace: Path, redis: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._given = (str(workspace), redis, self._port)
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        self._process = Forked(main, *self._given, env=os.environ)
        until(self._answers)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def job(self, job_id: str) -> Any:
        return httpx.get(f"{self.url}/v1/jobs/{job_id}", verify=NO_TLS).raise_for_status().json()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/healthz", verify=NO_TLS).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture
def api(fork_server: None, tmp_path: Path, redis_server: RedisServer) -> Iterator[Api]:
    made = Api(tmp_path / "workspace", redis_server.url)
    yield made
    made.kill()


def test_an_api_killed_at_every_status(
    api: Api,
    redis_server: RedisServer,
    start_worker: StartWorker,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    long: bool,
    tmp_path: Path,
) -> None:
    request = make_request(3, **({"reference": TRAIN} if long else {}))
    job_id = httpx.post(f"{api.url}/v1/jobs", json=request.model_dump(mode="json")).json()["id"]
    queue = Jobs(Workspace(str(tmp_path / "workspace")), connect(redis_server.url)).queue
    worker: Worker | None = None
    way: list[tuple[str, tuple[str, ...]]] = [("planning", ("light",)), ("scoring", ("light", "gpu"))]
    if long:
        way = [("queued", ()), ("planning", ("light",)), ("training", ("light", "gpu"))]
    for status, resources in way:
        # A job waits until there is a worker for its next node; planning begins only when a worker has it.
        lease = queue.claim("here", ("light",)) if status == "planning" else None
        until(lambda status=status: api.job(job_id)["status"] == status)
        api.kill()
        api.start()
        assert api.job(job_id)["status"] == status
        if lease is not None:
            queue.release(lease)
        if resources:
            if worker is not None:
                worker.terminate()
                worker.wait()
            worker = start_worker(status, redis_server.url, resources=resources)
    until(lambda: api.job(job_id)["status"] in ENDED)
    api.kill()
    api.start()
    redis = Redis.from_url(redis_server.url, decode_responses=True)
    expected = undisturbed(request)
    audit(tmp_path / "workspace", redis, api.job(job_id), request, expected, 3)
    base = f"{api.url}/v1/jobs/{job_id}"
    served = httpx.get(f"{base}/selections/medium-0.5/manifest", params={"format": "parquet"})
    assert served.content == expected["medium-0.5/manifest.parquet"]


def test_a_job_is_accepted_once_however_often_the_api_dies_at_it(
    api: Api, make_request: MakeRequest, chance: random.Random, long: bool
) -> None:
    body, wanted = make_request(3).model_dump(mode="json"), 200 if long else 6
    ids: dict[str, set[str]] = {}
    over = threading.Event()

    def submit() -> None:
        for number in range(wanted):
            key = f"job-{number}"
            for _ in range(2):  # a client that has lost the answer asks again
                answer = None
                while answer is None or answer.status_code != 202:
                    try:
                        answer = httpx.post(f"{api.url}/v1/jobs", json=body, headers={"Idempotency-Key": key})
                    except httpx.TransportError:
                        time.sleep(0.05)
                ids.setdefault(key, set()).add(answer.json()["id"])
        over.set()

    client = threading.Thread(target=submit)
    client.start()
    while not over.wait(chance.uniform(0.05, 0.5)):
        api.kill()
        api.start()
    client.join()
    found = httpx.get(f"{api.url}/v1/jobs", params={"limit": 200}).json()["data"]
    assert sorted(job["id"] for job in found) == sorted(next(iter(known)) for known in ids.values())
    assert {len(known) for known in ids.values()} == {1}


def test_a_whole_service_killed_at_every_status(
    serve: Serve,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    figures: Figures,
    long_only: None,
    tmp_path: Path,
) -> None:
    workspace, request = tmp_path / "workspace", make_request(12, reference=TRAIN)
    killed_at = []
    service = serve()
    job_id = service.submit(request)
    for number in range(len(ORDER) - 1):
        reached = ORDER[number:]  # a short stage may be over by now
        until(lambda service=service, reached=reached: service.job(job_id)["status"] in reached)
        children = list(service.children().values())
        service.process.kill()
        service.process.wait()
        until(lambda children=children: gone(children))
        service = serve()
        killed_at.append(service.job(job_id)["status"])
    ended = service.ended(job_id)
    audit(workspace, private_redis(workspace), ended, request, undisturbed(request), 12)
    figures.say(f"killed whole; after each start the job was {', '.join(killed_at)}")


def test_a_redis_that_is_killed_again_and_again(
    serve: Serve,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    figures: Figures,
    chance: random.Random,
    long_only: None,
    tmp_path: Path,
) -> None:
    workspace, request = tmp_path / "workspace", make_request(100)
    service = serve(workers=2)
    job_id = service.submit(request)
    kills = 0
    while service.job(job_id)["status"] not in ENDED:
        redis = service.children().get("redis")
        if redis is not None:
            os.kill(redis, signal.SIGKILL)
            kills += 1
        time.sleep(chance.uniform(0.5, 2))
    audit(workspace, private_redis(workspace), service.job(job_id), request, undisturbed(request), 100)
    figures.say(f"Redis killed {kills} times in one job")


def test_a_redis_whose_data_is_gone(
    redis_server: RedisServer,
    start_worker: StartWorker,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    long: bool,
    tmp_path: Path,
) -> None:
    shards, times = (60, 4) if long else (12, 1)
    workspace, request = tmp_path / "workspace", make_request(shards)
    jobs = Jobs(Workspace(str(workspace)), connect(redis_server.url))
    for name in ("w0", "w1"):
        start_worker(name, redis_server.url)
    job, _ = jobs.create(request)
    for number in range(times):
        until(lambda number=number: len(list(workspace.glob("scores/*/*.parquet"))) > number * shards // times)
        redis_server.stop()
        for path in (tmp_path / "redis").glob("appendonly*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        redis_server.start()
    until(lambda: _status(jobs, job.id) in ENDED, 300)
    redis = Redis.from_url(redis_server.url, decode_responses=True)
    audit(workspace, redis, jobs.get(job.id).model_dump(mode="json"), request, undisturbed(request), shards)


def _status(jobs: Jobs, job_id: str) -> str | None:
    """A job's status; None while Redis does not answer or is being rebuilt."""
    try:
        return jobs.get(job_id).status
    except RedisError:
        return None
