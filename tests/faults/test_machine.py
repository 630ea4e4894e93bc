"""What happens to the machine under a job: its disk runs full and is freed, its clock is set."""

import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import connect
from service.run.redis_server import RedisServer
from service.store.workspace import Workspace
from tests.faults.audit import Figures, audit, given_back, leases, private_redis, timed
from tests.forked import StartWorker
from tests.service.pool import until
from tests.service.serving import Service

MakeRequest = Callable[..., JobRequest]
Undisturbed = Callable[[JobRequest], dict[str, bytes]]
Serve = Callable[..., Service]
ENDED = ("succeeded", "failed", "cancelled")
HOUR = 3600
LEASE_SECONDS = 2.0


def fill(disk: Path) -> Path:
    """Takes all that is left of a disk."""
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    return filler


def on_a_full_disk(service: Service, request: JobRequest, disk: Path) -> tuple[str, Path]:
    """Submits a job and fills the disk when some of it is scored. The job, and the file that fills the disk."""
    job_id = service.submit(request)
    until(lambda: service.job(job_id)["progress"]["shards_done"] >= 5)
    return job_id, fill(disk)


def test_a_disk_that_is_freed_in_time_costs_nothing(
    serve: Serve, make_request: MakeRequest, undisturbed: Undisturbed, long_only: None, small_disk: Path
) -> None:
    workspace, request = small_disk / "workspace", make_request(40)
    service = serve(workspace, workers=2)
    job_id, filler = on_a_full_disk(service, request, small_disk)
    until(lambda: "No space left" in service.output())
    filler.unlink()
    audit(workspace, private_redis(workspace), service.ended(job_id), request, undisturbed(request), 40)


def test_a_job_that_failed_on_a_full_disk_is_done_when_it_is_freed(
    serve: Serve, make_request: MakeRequest, undisturbed: Undisturbed, long_only: None, small_disk: Path
) -> None:
    workspace, request = small_disk / "workspace", make_request(40)
    service = serve(workspace, workers=2)
    job_id, filler = on_a_full_disk(service, request, small_disk)
    failed = service.ended(job_id)
    assert (failed["status"], failed["error"]["status"]) == ("failed", 507)
    filler.unlink()
    scored = {path: path.stat().st_mtime_ns for path in workspace.glob("scores/*/*.parquet")}
    again = service.ended(service.submit(request))
    audit(workspace, private_redis(workspace), again, request, undisturbed(request), 40)
    assert scored.items() <= {path: path.stat().st_mtime_ns for path in workspace.glob("scores/*/*.parquet")}.items()


class Clock:
    """The clock of processes that are started with `env`, to be moved while they run."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        file.write_bytes(struct.pack("q", 0))
        self.env = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(file)}

    def move(self, seconds: int) -> None:
        """Sets it that far from the right time."""
        with self._file.open("r+b", buffering=0) as file:
            file.write(struct.pack("q", seconds))


@pytest.fixture
def clock(clock_library: Path, tmp_path: Path) -> Clock:
    return Clock(clock_library, tmp_path / "offset")


@pytest.fixture
def clocked_redis(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Redis whose clock is moved."""
    server = RedisServer(tmp_path / "redis")
    with monkeypatch.context() as patch:
        for name, value in clock.env.items():
            patch.setenv(name, value)
        server.start()
    yield server
    server.close()


@pytest.mark.parametrize("leap", [HOUR, -HOUR])
def test_a_clock_that_is_set_delays_nothing_and_takes_no_lease(
    clock: Clock,
    clocked_redis: RedisServer,
    start_worker: StartWorker,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    figures: Figures,
    long: bool,
    leap: int,
    tmp_path: Path,
) -> None:
    if leap > 0 and not long:
        pytest.skip("part of the long form: make faults")
    shards = 60 if long else 16
    workspace, request = tmp_path / "workspace", make_request(shards, documents=60)
    redis = Redis.from_url(clocked_redis.url, decode_responses=True)
    jobs = Jobs(Workspace(str(workspace)), connect(clocked_redis.url), LEASE_SECONDS)
    settings = {"env": clock.env, "lease_seconds": LEASE_SECONDS}
    first = start_worker("first", clocked_redis.url, **settings)
    start_worker("second", clocked_redis.url, **settings)
    until(lambda: jobs.queue.stats().workers == 2)
    job, _ = jobs.create(request)
    until(lambda: len(leases(redis, workspace, job.id)) == 2)
    before = redis.time()[0]
    clock.move(leap)
    assert abs(redis.time()[0] - before - leap) < 60
    until(lambda: jobs.get(job.id).progress.shards_done >= 2)
    until(lambda: len(leases(redis, workspace, job.id)) == 2)
    held = {task: entry for task, entry in leases(redis, workspace, job.id).items() if entry["worker"] == "first"}
    os.kill(first.pid, signal.SIGKILL)
    took = timed(lambda: given_back(redis, workspace, job.id, held))
    figures.times("after it, a dead worker's shard taken by another", [took], LEASE_SECONDS + 1)
    clock.move(0)
    until(lambda: jobs.get(job.id).status in ENDED, 300)
    audit(workspace, redis, jobs.get(job.id).model_dump(mode="json"), request, undisturbed(request), shards)


def test_a_service_whose_clock_is_set_to_and_fro(
    clock: Clock,
    serve: Serve,
    make_request: MakeRequest,
    undisturbed: Undisturbed,
    long_only: None,
    tmp_path: Path,
) -> None:
    workspace, request = tmp_path / "workspace", make_request(60)
    service = serve(workers=2, env=clock.env)
    job_id = service.submit(request)
    for number in range(6):
        until(lambda number=number: service.job(job_id)["progress"]["shards_done"] >= number * 8)
        clock.move((HOUR, 0, -HOUR)[number % 3])
    audit(workspace, private_redis(workspace), service.ended(job_id), request, undisturbed(request), 60)
