"""The queue alone on a private Redis: time of its calls, and memory of Redis for each task of a job."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from service.contract.names import RESOURCES
from service.queue.leases import Queue
from service.queue.tasks import Done, Lease, NodeTasks
from service.store.records import JobSummary, TaskNote
from tests.scale.figures import Figure, percentile

WORKERS = 64  # leases that are held at a time
TASKS_MAX = 6_400  # that are run; the other tasks only lie in the queue
OVERHEAD_MS = 5.0
BYTES_A_SHARD = 300.0
NOTE = TaskNote(device="cuda", documents=12_345, tokens=12_345_678, tokens_per_second=123_456.789).model_dump_json()
SUMMARY = JobSummary(status="scoring", documents=10**9, shards=200_000, text_bytes=10**13).model_dump_json()


def measure(redis: Any, shards: int) -> list[Figure]:
    """Runs a job whose shards are all missing, then one whose missing shards are all apart from each other."""
    queue = Queue(redis, "scale")
    _submit(queue, "warm", [range(WORKERS)])  # loads the scripts
    _run(queue, WORKERS)
    queue.forget("warm")
    empty = _memory(redis)
    submit = _submit(queue, "whole", [range(shards)])
    whole = _memory(redis) - empty
    calls = _run(queue, min(shards, TASKS_MAX))
    queue.forget("whole")
    empty = _memory(redis)
    submit_apart = _submit(queue, "apart", [range(2 * part, 2 * part + 1) for part in range(shards)])
    leases, claims = _claim(queue, WORKERS)
    _time(queue.beat, [(lease, 500.0, NOTE) for lease in leases])
    apart = _memory(redis) - empty
    queue.forget("apart")
    return [
        Figure("submit", "ms", submit),
        Figure("submit, no two shards adjacent", "ms", submit_apart),
        Figure("claim, median", "ms", percentile(calls["claim"], 50)),
        Figure("claim, p99", "ms", percentile(calls["claim"], 99)),
        Figure("claim, p99, no two shards adjacent", "ms", percentile(claims, 99)),
        Figure("beat, median", "ms", percentile(calls["beat"], 50)),
        Figure("done, median", "ms", percentile(calls["done"], 50)),
        Figure("claim + beat + done, for each shard", "ms", sum(map(_mean, calls.values())), OVERHEAD_MS),
        Figure("Redis memory for each shard", "bytes", whole / shards, BYTES_A_SHARD),
        Figure(f"the same, none adjacent, {WORKERS} leases", "bytes", apart / shards, BYTES_A_SHARD),
    ]


def _submit(queue: Queue, job: str, parts: Sequence[range]) -> float:
    queue.add(job, time.time_ns() // 1000, ["all", "open"], SUMMARY)
    begun = time.perf_counter()
    assert queue.submit(job, NodeTasks("scores", "gpu", parts, {"total": sum(map(len, parts)), "parts": 0}), SUMMARY)
    return (time.perf_counter() - begun) * 1000


def _run(queue: Queue, tasks: int) -> dict[str, list[float]]:
    """Runs so many tasks, up to WORKERS at a time; the milliseconds of each call."""
    calls: dict[str, list[float]] = {"claim": [], "beat": [], "done": []}
    while tasks:
        leases, claims = _claim(queue, min(tasks, WORKERS))
        counters = {"documents": 10_000, "tokens": 10_000_000, "rejects": 1, "worker_ms": 5000, "gpu_ms": 5000}
        calls["claim"] += claims
        calls["beat"] += _time(queue.beat, [(lease, 500.0, NOTE) for lease in leases])
        result = Done(1.0, ("advance", "light"), counters, "scores")
        calls["done"] += _time(queue.done, [(lease, result) for lease in leases])
        tasks -= len(leases)
    return calls


def _claim(queue: Queue, count: int) -> tuple[list[Lease], list[float]]:
    leases, times = [], []
    for worker in range(count):
        begun = time.perf_counter()
        lease = queue.claim(f"node-{worker:03}-12345-abcdef", RESOURCES)
        times.append((time.perf_counter() - begun) * 1000)
        assert lease is not None
        leases.append(lease)
    return leases, times


def _time(call: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[float]:
    times = []
    for args in arguments:
        begun = time.perf_counter()
        call(*args)
        times.append((time.perf_counter() - begun) * 1000)
    return times


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _memory(redis: Any) -> int:
    return int(redis.info("memory")["used_memory"])
