"""The queue: leases on the tasks of jobs, in Redis. Its keys, and the scripts that keep its invariants: scripts.py."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.schemas import Status
from service.scripts import SCRIPTS

MAX_ATTEMPTS = 5  # claims of a task that may end in an error or a dead worker
RATE_WINDOW = 30_000  # ms over which tokens a second are counted
_BUCKET = 2_000  # ms, as in scripts.py
_STATUSES: tuple[Status, ...] = (
    "queued",
    "planning",
    "training",
    "scoring",
    "selecting",
    "succeeded",
    "failed",
    "cancelled",
)


class LeaseLost(Exception):
    """The task is no longer this worker's: the lease lapsed and was taken, or the job was cancelled or has ended."""


@dataclass(frozen=True)
class Lease:
    """A task that a worker holds until its lease lapses."""

    job: str
    task: str
    fence: int
    attempts: int  # claims so far, this one included; those that were released do not count
    error: str  # why the attempt before failed, or ""

    @property
    def kind(self) -> str:
        """`advance`, `plan`, `train`, `score` or `select`."""
        return self.task.partition(":")[0]

    @property
    def shard(self) -> int:
        """The shard's index, of a `score` task."""
        return int(self.task.partition(":")[2])


@dataclass(frozen=True)
class JobState:
    """What Redis knows of a job. Times are milliseconds since 1970; in-flight work is counted in `*_done`."""

    status: Status
    view: dict[str, Any]
    started_at: int | None
    updated_at: int | None
    shards_total: int
    shards_done: int
    documents_done: int
    tokens_done: int
    training_tokens: int  # read so far by the training in flight
    rejects: int
    documents_per_second: float
    tokens_per_second: float
    documents_per_second_ever: float  # since the first shard was claimed
    shards_leased: int
    shards_failed: int  # that wait for another attempt
    worker_ms: int  # that training and shards have taken, on any device
    gpu_ms: int


@dataclass(frozen=True)
class HeldLease:
    """Who has a task. Times are milliseconds since 1970."""

    worker: str
    device: str  # "" while unknown
    task: str
    attempts: int
    documents: int
    tokens: int
    claimed_at: int
    seen_at: int  # the worker's last sign of life


@dataclass(frozen=True)
class Stats:
    """Sizes for the metrics: tasks by kind, jobs by status, live workers, and what all jobs scored."""

    pending: dict[str, int]
    leased: dict[str, int]
    jobs: dict[str, int]
    workers: int
    shards_scored: int
    documents_scored: int
    tokens_scored: int


def connect(url: str) -> "Redis":
    """A client for a redis://, rediss:// or unix:// URL, with time-outs and few retries; ValueError for others."""
    return Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=10,
        socket_connect_timeout=5,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
    )


class Queue:
    """The verbs. All raise redis.RedisError when Redis is away."""

    def __init__(self, redis: "Redis", workspace_id: str, lease_seconds: float = 15.0) -> None:
        self.redis: Any = redis  # its methods are typed for the synchronous and the asynchronous client at once
        self.prefix = f"winnow:{{{workspace_id}}}:"
        self.lease_ms = round(lease_seconds * 1000)
        self._scripts: dict[str, Callable[..., Any]] = {n: self.redis.register_script(s) for n, s in SCRIPTS.items()}

    def _call(self, name: str, *args: Any) -> Any:
        return self._scripts[name](keys=[self.prefix], args=args)

    # -- jobs
    def add(self, job: str, created_at: int, view: dict[str, Any]) -> None:
        """Makes a job known (`created_at` in microseconds since 1970)."""
        self._call("add", job, created_at, json.dumps(view))

    def submit(self, job: str, kind: str, count: int, view: dict[str, Any]) -> bool:
        """Adds the `count` tasks of a job's next stage; False if it has them, is past it, or has ended."""
        return bool(self._call("submit", job, kind, count, json.dumps(view)))

    def end(self, job: str, status: Status, view: dict[str, Any]) -> None:
        """Ends a job and drops its tasks. For a job that has ended it only renews the view."""
        self._call("end", job, status, json.dumps(view))

    def forget(self, job: str) -> None:
        """Drops a job that the workspace does not know."""
        self._call("forget", job)

    # -- leases
    def claim(self, worker: str, kinds: Iterable[str]) -> Lease | None:
        """A lease on a task of one of these kinds, looked for in their order, least-served job first."""
        answer = self._call("claim", worker, self.lease_ms, *kinds)
        return None if answer is None else Lease(answer[0], answer[1], int(answer[2]), int(answer[3]), answer[4])

    def beat(self, lease: Lease, documents: int = 0, tokens: int = 0, device: str = "") -> None:
        """Holds on to a lease and tells how much of the task is done, and on what. Raises LeaseLost."""
        self._held(self._call("beat", lease.job, lease.task, lease.fence, self.lease_ms, documents, tokens, device))

    def done(self, lease: Lease, documents: int = 0, tokens: int = 0, rejects: int = 0, fresh: bool = True) -> None:
        """Finishes a task. `fresh` is False for scores that were there already. Raises LeaseLost."""
        self._held(self._call("done", lease.job, lease.task, lease.fence, documents, tokens, rejects, int(fresh)))

    def fail(self, lease: Lease, error: str, delay_seconds: float = 0) -> None:
        """Gives a task back after an error, claimable again after a while. Raises LeaseLost."""
        self._held(self._call("put_back", lease.job, lease.task, lease.fence, round(delay_seconds * 1000), error, 0))

    def release(self, lease: Lease, delay_seconds: float = 0) -> None:
        """Gives a task back unfinished, as if it had not been claimed. Raises LeaseLost."""
        self._held(self._call("put_back", lease.job, lease.task, lease.fence, round(delay_seconds * 1000), "", 1))

    def reclaim(self, worker: str) -> int:
        """Gives back what a worker that is known to be dead held; returns how many tasks."""
        return int(self._call("reclaim", worker))

    @staticmethod
    def _held(answer: Any) -> None:
        if not int(answer):
            raise LeaseLost

    # -- reading
    def state(self, job: str) -> JobState | None:
        """What Redis knows of a job, or None."""
        return self.states([job])[0]

    def states(self, jobs: list[str]) -> list[JobState | None]:
        """The same of several jobs in one round trip."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.time()
            for job in jobs:
                pipe.hgetall(f"{self.prefix}job:{job}")
                pipe.hgetall(f"{self.prefix}lease:{job}")
                pipe.hvals(f"{self.prefix}rate:{job}")
            (seconds, micros), *rows = pipe.execute()
        now = seconds * 1000 + micros // 1000
        return [_state(now, *rows[i : i + 3]) for i in range(0, len(rows), 3)]

    def leases(self, job: str) -> list[HeldLease]:
        """The tasks of a job that a worker has, by the worker's name."""
        entries = {task: json.loads(text) for task, text in self.redis.hgetall(f"{self.prefix}lease:{job}").items()}
        held = {task: entry for task, entry in entries.items() if entry["fence"]}
        names = [entry["worker"] for entry in held.values()]
        seen = self.redis.zmscore(f"{self.prefix}workers", names) if names else []
        found = [
            HeldLease(
                worker=entry["worker"],
                device=entry.get("device", ""),
                task=task,
                attempts=int(entry["attempts"]),
                documents=int(entry["documents"]),
                tokens=int(entry["tokens"]),
                claimed_at=int(entry["claimed"]),
                seen_at=int(last or entry["claimed"]),
            )
            for (task, entry), last in zip(held.items(), seen, strict=True)
        ]
        return sorted(found, key=lambda lease: (lease.worker, lease.task))

    def page(self, limit: int, cursor: str | None, status: Status | None) -> tuple[list[str], str | None]:
        """Ids of up to `limit` jobs, newest first, and the cursor of the next page. ValueError for a strange cursor."""
        key = f"{self.prefix}jobs" if status is None else f"{self.prefix}status:{status}"
        found: list[tuple[str, float]] = []
        top = "+inf"
        if cursor is not None:
            created, _, after = cursor.partition("-")
            ties = self.redis.zrevrangebyscore(key, int(created), int(created), withscores=True)
            found = [pair for pair in ties if pair[0] < after]
            top = f"({int(created)}"
        found += self.redis.zrevrangebyscore(key, top, "-inf", start=0, num=limit + 1, withscores=True)
        page = found[:limit]
        more = f"{int(page[-1][1])}-{page[-1][0]}" if len(found) > limit else None
        return [job for job, _ in page], more

    def stats(self) -> Stats:
        """Sizes for the metrics."""
        kinds, workers = self._call("stats", 2 * self.lease_ms)
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"{self.prefix}totals")
            for status in _STATUSES:
                pipe.zcard(f"{self.prefix}status:{status}")
            totals, *counts = pipe.execute()
        return Stats(
            pending={kind: int(pending) for kind, pending, _ in kinds},
            leased={kind: int(leased) for kind, _, leased in kinds},
            jobs=dict(zip(_STATUSES, counts, strict=True)),
            workers=int(workers),
            shards_scored=int(totals.get("shards", 0)),
            documents_scored=int(totals.get("documents", 0)),
            tokens_scored=int(totals.get("tokens", 0)),
        )

    # -- has Redis lost its data?
    def epoch(self) -> str | None:
        """None if this data is that of the server now running; else what to give to `reconciled` after a rebuild."""
        run_id = str(self.redis.info("server")["run_id"])
        return None if self.redis.get(f"{self.prefix}epoch") == run_id else run_id

    def reconciled(self, epoch: str) -> None:
        """Notes that the queue has been rebuilt from the workspace on this server."""
        self.redis.set(f"{self.prefix}epoch", epoch)


def _state(now: int, job: dict[str, str], leases: dict[str, str], rates: list[str]) -> JobState | None:
    if "status" not in job:
        return None

    def number(name: str) -> int:
        return int(job.get(name) or 0)

    flying = {task: json.loads(entry) for task, entry in leases.items()}
    scoring = [entry for task, entry in flying.items() if task.startswith("score:")]
    busy = [entry for task, entry in flying.items() if entry["fence"] and task.partition(":")[0] in ("score", "train")]
    gpu = number("gpu_ms") + sum(now - int(entry["claimed"]) for entry in busy if entry.get("device") == "cuda")
    cpu = number("cpu_ms") + sum(now - int(entry["claimed"]) for entry in busy if entry.get("device") != "cuda")
    documents_done = number("documents_done") + sum(int(entry["documents"]) for entry in scoring)
    if rates:
        recent = [rate for rate in map(json.loads, rates) if rate["bucket"] * _BUCKET > now - RATE_WINDOW]
        elapsed = max(1.0, (now - min((rate["bucket"] * _BUCKET for rate in recent), default=now)) / 1000)
        documents, tokens = (sum(rate[name] for rate in recent) / elapsed for name in ("documents", "tokens"))
    else:
        elapsed = max(0.001, (number("scored_at") - number("scoring_at")) / 1000)
        documents, tokens = number("documents_done") / elapsed, number("tokens_done") / elapsed
    return JobState(
        status=cast(Status, job["status"]),
        view=json.loads(job["view"]),
        started_at=number("started_at") or None,
        updated_at=number("updated_at") or None,
        shards_total=number("shards_total"),
        shards_done=number("shards_done"),
        documents_done=documents_done,
        tokens_done=number("tokens_done") + sum(int(entry["tokens"]) for entry in scoring),
        training_tokens=int(flying["train"]["tokens"]) if "train" in flying else 0,
        rejects=number("rejects"),
        documents_per_second=max(0.0, documents),
        tokens_per_second=max(0.0, tokens),
        documents_per_second_ever=documents_done / max(1.0, (now - (number("scoring_at") or now)) / 1000),
        shards_leased=sum(bool(entry["fence"]) for entry in scoring),
        shards_failed=sum(not entry["fence"] and bool(entry["error"]) for entry in scoring),
        worker_ms=cpu + gpu,
        gpu_ms=gpu,
    )
