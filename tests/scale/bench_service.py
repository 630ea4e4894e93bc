"""The service over the queue: the worker's own time for each shard, and the API of `winnow serve` as jobs are read."""

import time
from pathlib import Path
from typing import Any

import httpx

from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.jobs.jobs import Jobs
from service.kinds import KINDS, scores
from service.kinds.node import Counts, Task
from service.work.pool_worker import PoolWorker
from tests.scale.bench_queue import NOTE, OVERHEAD_MS, WORKERS
from tests.scale.fake_workspace import DONE, SCORING, make_workspace
from tests.scale.figures import Figure, percentile
from tests.scale.processes import resident_mib
from tests.service.serving import Service

TASKS_MAX = 2_000  # that the worker runs
REQUESTS = 2_000  # for each job
GET_P99_MS = 20.0
GROWTH_MIB = 4.0  # of the API's memory while the requests are answered: none but for the allocator's slack


class NoScores:
    """Kind `scores` whose run does nothing."""

    nodes = staticmethod(scores.nodes)

    @staticmethod
    def run(task: Task) -> Counts:
        return Counts({"documents": 10_000, "tokens": 10_000_000, "rejects": 1}, fresh=True)


def measure(redis: Any, url: str, folder: Path, shards: int) -> list[Figure]:
    """Runs tasks of a job of so many shards, then reads it and a job that is done."""
    jobs = Jobs(make_workspace(folder / "workspace", shards), redis)
    begun = time.perf_counter()
    jobs.check()
    recovered = time.perf_counter() - begun
    shard = _work(jobs, min(shards - WORKERS, TASKS_MAX))
    for worker in range(WORKERS):
        lease = jobs.queue.claim(f"node-{worker:03}-12345-abcdef", ["gpu"])
        assert lease is not None
        jobs.queue.beat(lease, 500.0, NOTE)
    service = Service(jobs.workspace.storage.url, folder / "serve.log", redis=url, workers=0, lease_seconds=600)
    try:
        service.ready()
        with httpx.Client(base_url=service.url, timeout=60) as client:
            _get(client, SCORING, 100)
            _get(client, DONE, 100)
            before = resident_mib(service.process.pid)
            scoring, done = _get(client, SCORING, REQUESTS), _get(client, DONE, REQUESTS)
            growth = resident_mib(service.process.pid) - before
    finally:
        service.process.terminate()
        service.process.wait()
    return [
        Figure("rebuild of Redis from the workspace", "ms", recovered * 1000),
        Figure("worker, for each shard", "ms", shard, OVERHEAD_MS),
        Figure(f"GET of a job with {WORKERS} leases, median", "ms", percentile(scoring, 50)),
        Figure(f"GET of a job with {WORKERS} leases, p99", "ms", percentile(scoring, 99), GET_P99_MS),
        Figure("GET of a job that is done, median", "ms", percentile(done, 50)),
        Figure("GET of a job that is done, p99", "ms", percentile(done, 99), GET_P99_MS),
        Figure("memory of the API", "MiB", before),
        Figure(f"its growth over {2 * REQUESTS:,} requests", "MiB", growth, GROWTH_MIB),
    ]


def _work(jobs: Jobs, tasks: int) -> float:
    """Milliseconds that a worker takes for each task."""
    kind, KINDS["scores"] = KINDS["scores"], NoScores()
    worker = PoolWorker(jobs, ModelLoader("cpu"), RESOURCES, "scale")
    try:
        begun = time.perf_counter()
        for _ in range(tasks):
            assert worker.once()
        return (time.perf_counter() - begun) * 1000 / tasks
    finally:
        KINDS["scores"] = kind


def _get(client: httpx.Client, job_id: str, requests: int) -> list[float]:
    """Milliseconds of each request."""
    times = []
    for _ in range(requests):
        begun = time.perf_counter()
        answer = client.get(f"/v1/jobs/{job_id}")
        times.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code == 200, answer.text
    return times
