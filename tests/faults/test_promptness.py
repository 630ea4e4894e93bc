"""How soon a cancelled job frees its worker, how soon what is told to stop has stopped, and who waits for whom."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace
from tests.faults.audit import Figures, audit, leases, nothing_left, private_redis, timed
from tests.forked import StartWorker
from tests.service.pool import until
from tests.service.serving import Service

MakeRequest = Callable[..., JobRequest]
Undisturbed = Callable[[JobRequest], dict[str, bytes]]
Serve = Callable[..., Service]
BATCH_SECONDS = 1.0  # the longest batch of the reference of these tests, on a core of its own
STOP_SECONDS = 3.0
TRAIN = {"train": {"preset": "tiny", "tokens": 400_000, "fraction": 0.2, "seed": 3}}


def test_a_cancelled_job_frees_its_worker(
    serve: Serve,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    figures: Figures,
    chance: random.Random,
    long_only: None,
    tmp_path: Path,
) -> None:
    workspace, service = tmp_path / "workspace", serve(workers=1)
    redis = private_redis(workspace)
    took: dict[str, list[float]] = {"scoring": [], "training": []}
    service.ended(service.submit(make_request(1, documents=1)))  # its worker has loaded the reference
    for number in range(20):
        status = ("scoring", "training")[number % 2]
        changes = {"reference": TRAIN} if status == "training" else {}
        big = service.submit(make_request(2, documents=600, words=1000, **changes))
        until(lambda big=big: any(task.startswith(("scores", "model")) for task in leases(redis, workspace, big)))
        time.sleep(chance.uniform(0, 2))
        other = service.submit(make_request(1, documents=1 + number))
        until(lambda other=other: service.job(other)["status"] not in ("queued", "planning"))
        httpx.post(f"{service.url}/v1/jobs/{big}/cancel").raise_for_status()
        took[status].append(timed(lambda other=other: service.job(other)["progress"]["shards_done"] > 0))
        service.ended(other)
    for status, seconds in took.items():
        figures.times(
            f"cancelled while {status}, until its worker had done another job's shard", seconds, BATCH_SECONDS + 1
        )
    request = make_request(2)
    ended = service.ended(service.submit(request))
    audit(workspace, redis, ended, request, undisturbed(request), 2)


def test_a_worker_that_is_told_to_stop_has_stopped(
    redis_server: RedisServer,
    start_worker: StartWorker,
    make_request: MakeRequest,
    figures: Figures,
    chance: random.Random,
    long_only: None,
    tmp_path: Path,
) -> None:
    workspace = tmp_path / "workspace"
    redis = Redis.from_url(redis_server.url, decode_responses=True)
    jobs = Jobs(Workspace(str(workspace)), connect(redis_server.url))
    took = []
    for number in range(20):
        changes = {"reference": TRAIN} if number % 2 else {}
        job, _ = jobs.create(make_request(2, documents=600, words=1000, **changes))
        worker = start_worker(f"w{number}", redis_server.url, lease_seconds=600)
        kinds = ("model",) if number % 2 else ("scores",)
        until(lambda job=job, kinds=kinds: any(t.startswith(kinds) for t in leases(redis, workspace, job.id)))
        time.sleep(chance.uniform(0, 2))
        worker.terminate()
        took.append(timed(lambda worker=worker: worker.poll() is not None))
        assert worker.returncode == 0
        assert leases(redis, workspace, job.id) == {}
        jobs.cancel(job.id)
    nothing_left(workspace, redis)
    figures.times("SIGTERM to the exit of a busy worker, its task given back", took, STOP_SECONDS)


def test_a_worker_whose_redis_hangs_stops_too(
    redis_server: RedisServer, start_worker: StartWorker, figures: Figures, long: bool, tmp_path: Path
) -> None:
    jobs = Jobs(Workspace(str(tmp_path / "workspace")), connect(redis_server.url))
    pid = int(jobs.queue.redis.info("server")["process_id"])
    took = []
    for number in range(5 if long else 1):
        worker = start_worker(f"w{number}", redis_server.url, resources=("light",))
        until(lambda number=number: jobs.queue.redis.zscore(f"{jobs.queue.prefix}workers:light", f"w{number}"))
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(0.5)  # by now it waits for an answer
            worker.terminate()
            took.append(timed(lambda worker=worker: worker.poll() is not None))
        finally:
            os.kill(pid, signal.SIGCONT)
        assert worker.returncode == 0
    figures.times("SIGTERM to the exit of a worker whose Redis hangs", took, STOP_SECONDS)


def test_a_service_that_is_told_to_stop_has_stopped(
    serve: Serve, make_request: MakeRequest, figures: Figures, chance: random.Random, long_only: None, tmp_path: Path
) -> None:
    took = []
    for _ in range(10):
        service = serve(workers=2)
        job = service.submit(make_request(4, documents=600, words=1000))
        until(lambda service=service, job=job: service.job(job)["progress"]["documents_done"] > 0)
        events = threading.Thread(target=_follow, args=(f"{service.url}/v1/jobs/{job}/events",))
        events.start()
        time.sleep(chance.uniform(0, 1))
        service.process.terminate()
        took.append(timed(lambda service=service: service.process.poll() is not None))
        events.join()
        assert service.process.returncode == 0
    figures.times("SIGTERM to the exit of a busy service with its workers and Redis", took, STOP_SECONDS)


def _follow(url: str) -> None:
    """Reads a stream of events until the service ends it."""
    try:
        with httpx.stream("GET", url, timeout=30) as answer:
            for _ in answer.iter_bytes():
                pass
    except httpx.TransportError:
        pass


def test_a_small_job_behind_a_large_one(
    serve: Serve, make_request: MakeRequest, figures: Figures, long_only: None, tmp_path: Path
) -> None:
    service = serve(workers=2)
    small = make_request(20, documents=40)
    service.ended(service.submit(make_request(2)))  # warm
    alone = timed(_ended(service, service.submit(small)))
    large = service.submit(make_request(500))
    until(lambda: service.job(large)["progress"]["shards_done"] >= 10)
    # The same shards under another setting, so that none of their scores are there.
    again = small.model_copy(update={"scoring": small.scoring.model_copy(update={"dtype": "float32"})})
    together = timed(_ended(service, service.submit(again)))
    left = service.job(large)["progress"]
    assert left["shards_done"] < left["shards_total"]
    figures.say(
        f"20 shards: {alone:.1f} s alone, {together:.1f} s behind a job of 500 ({together / alone:.2f} times); "
        f"of the 500, {left['shards_done']} were done then"
    )
    assert together < 3 * alone


def _ended(service: Service, job_id: str) -> Callable[[], Any]:
    return lambda: service.job(job_id)["status"] == "succeeded"
