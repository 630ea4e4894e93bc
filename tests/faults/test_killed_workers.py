"""Workers killed at random, killed with nobody to see it, stopped and woken, and killed by what they work on."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis

from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.queue.tasks import MAX_ATTEMPTS
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace
from tests.faults.audit import Figures, audit, given_back, leases, nothing_left, private_redis, timed
from tests.forked import StartWorker
from tests.service.pool import until
from tests.service.serving import Service

MakeRequest = Callable[..., JobRequest]
Undisturbed = Callable[[JobRequest], dict[str, bytes]]
Serve = Callable[..., Service]
ENDED = ("succeeded", "failed", "cancelled")
KILL_SECONDS = 1.0
LOOK_SECONDS = 0.2  # of the supervisor at its workers
LEASE_SECONDS = 2.0


def kill(redis: Any, workspace: Path, job_id: str, worker: str, pid: int) -> float | None:
    """Kills a worker; seconds until what it held was given back, or None if it held nothing."""
    held = {task: entry for task, entry in leases(redis, workspace, job_id).items() if entry["worker"] == worker}
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None
    took = timed(lambda: given_back(redis, workspace, job_id, held))
    return took if held else None


def holders(redis: Any, workspace: Path, job_id: str) -> set[str]:
    """The workers that hold a task of the job."""
    return {entry["worker"] for entry in leases(redis, workspace, job_id).values()}


def test_random_workers_killed_every_second(
    serve: Serve,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    figures: Figures,
    chance: random.Random,
    long: bool,
    tmp_path: Path,
) -> None:
    shards, wanted, workers = (300, 500, 4) if long else (12, 2, 2)
    request = make_request(shards)
    expected = undisturbed(request)
    kills, recovered, rounds = 0, list[float](), 0
    started = time.monotonic()
    while kills < wanted:
        rounds += 1
        workspace = tmp_path / f"round-{rounds}"
        service = serve(workspace, workers=workers, lease_seconds=15)
        redis = private_redis(workspace)
        job_id = service.submit(request)
        until(lambda service=service, job_id=job_id: service.job(job_id)["progress"]["shards_done"] > 0)
        while service.job(job_id)["status"] not in ENDED:
            pause = time.monotonic() + KILL_SECONDS
            running = service.workers()
            if running and kills < wanted:
                name = chance.choice(sorted(running))
                took = kill(redis, workspace, job_id, name, running[name])
                kills += 1
                recovered += [took] if took is not None else []
            time.sleep(max(0.0, pause - time.monotonic()))
        audit(workspace, redis, service.job(job_id), request, expected, shards)
        service.process.terminate()
        assert service.process.wait(10) == 0
    took = time.monotonic() - started
    figures.say(f"{kills} kills through {rounds} jobs of {shards} shards in {took:.0f} s, nothing lost or doubled")
    figures.times("a dead worker's shard given back by its supervisor", recovered, LOOK_SECONDS + 1)


def test_workers_that_die_unseen_lose_their_leases(
    redis_server: RedisServer,
    start_worker: StartWorker,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    figures: Figures,
    chance: random.Random,
    long_only: None,
    tmp_path: Path,
) -> None:
    shards, wanted = 600, 10
    request, workspace = make_request(shards), tmp_path / "workspace"
    redis = Redis.from_url(redis_server.url, decode_responses=True)
    jobs = Jobs(Workspace(str(workspace)), connect(redis_server.url), LEASE_SECONDS)
    living = {name: start_worker(name, redis_server.url, lease_seconds=LEASE_SECONDS) for name in ("w0", "w1")}
    job, _ = jobs.create(request)
    until(lambda: jobs.get(job.id).status == "scoring")
    recovered: list[float] = []
    while len(recovered) < wanted and jobs.get(job.id).status not in ENDED:
        # The other is to be at work, not still starting.
        until(lambda: holders(redis, workspace, job.id) >= living.keys() or jobs.get(job.id).status in ENDED)
        now = leases(redis, workspace, job.id).values()
        held = sorted({entry["worker"] for entry in now if entry["attempts"] < MAX_ATTEMPTS})
        if held:
            name = chance.choice(held)
            took = kill(redis, workspace, job.id, name, living[name].pid)
            recovered += [took] if took is not None else []
            del living[name]
            name = f"w{len(recovered)}-{name}"[:20]
            living[name] = start_worker(name, redis_server.url, lease_seconds=LEASE_SECONDS)
    until(lambda: jobs.get(job.id).status in ENDED, 300)
    audit(workspace, redis, jobs.get(job.id).model_dump(mode="json"), request, undisturbed(request), shards)
    figures.times("a dead worker's shard taken by another with no supervisor", recovered, LEASE_SECONDS + 1)


def test_a_worker_that_was_stopped_past_its_lease_wakes_up(
    redis_server: RedisServer,
    start_worker: StartWorker,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    long_only: None,
    tmp_path: Path,
) -> None:
    shards = 40
    request, workspace = make_request(shards, documents=60), tmp_path / "workspace"
    redis = Redis.from_url(redis_server.url, decode_responses=True)
    jobs = Jobs(Workspace(str(workspace)), connect(redis_server.url), LEASE_SECONDS)
    workers = {f"w{n}": start_worker(f"w{n}", redis_server.url, lease_seconds=LEASE_SECONDS) for n in range(3)}
    job, _ = jobs.create(request)
    for _ in range(4):
        if jobs.get(job.id).status in ENDED:
            break
        task, entry = next(iter(until(lambda: leases(redis, workspace, job.id)).items()))
        stopped = workers[entry["worker"]]
        stopped.send_signal(signal.SIGSTOP)
        until(lambda task=task, entry=entry: leases(redis, workspace, job.id).get(task) != entry)
        stopped.send_signal(signal.SIGCONT)
    until(lambda: jobs.get(job.id).status in ENDED, 300)
    audit(workspace, redis, jobs.get(job.id).model_dump(mode="json"), request, undisturbed(request), shards)
    assert all(worker.poll() is None for worker in workers.values())


def test_a_shard_that_kills_its_worker_every_time_is_given_up_and_costs_no_other_job(
    serve: Serve, make_request: MakeRequest, undisturbed: Undisturbed, long_only: None, tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    service = serve(workers=2)
    redis = private_redis(workspace)
    poisoned, other = make_request(3, documents=120), make_request(12)
    job_id, other_id = service.submit(poisoned), service.submit(other)
    while service.job(job_id)["status"] not in ENDED:
        entry = leases(redis, workspace, job_id).get("scores:1")
        pid = service.workers().get(entry["worker"]) if entry else None
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            until(lambda entry=entry: leases(redis, workspace, job_id).get("scores:1") != entry)
        time.sleep(0.02)
    failed = service.job(job_id)
    assert failed["status"] == "failed"
    assert f"scores 1 was tried {MAX_ATTEMPTS} times" in failed["error"]["detail"]
    assert "its worker serve-" in failed["error"]["detail"]
    audit(workspace, redis, service.ended(other_id), other, undisturbed(other), 12)
    nothing_left(workspace, redis)
