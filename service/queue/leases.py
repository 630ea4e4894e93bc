"""The queue: leases on the tasks of jobs, in Redis. Its keys, and the scripts that keep its invariants: scripts.py."""

import json
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis, RedisError
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.contract.names import Status
from service.queue.scripts import SCRIPTS

MAX_ATTEMPTS = 5  # claims of a task that may end in an error or a dead worker
MAX_ATTEMPTS_IN_A_STORM = 20  # the same where workers die at the job's other tasks as often: it may not be this one
RATE_WINDOW = 30_000  # ms over which tokens a second are counted
_BUCKET = 2_000  # ms, as in scripts.py
_KINDS = ("advance", "select", "plan", "score", "train")  # as in scripts.py
_REBUILDING = 10_000  # ms in which who rebuilds says that it goes on
_ADMITTED = 60_000  # ms in which a job that was admitted is added, or it no longer counts
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


class Rebuilding(RedisError):
    """Redis lost its data and another process puts them back: it is as if it did not answer, for seconds."""


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
    deaths_elsewhere: int  # of workers at other tasks of the job

    @property
    def limit(self) -> int:
        """How many attempts the task has before it is given up."""
        return MAX_ATTEMPTS_IN_A_STORM if self.deaths_elsewhere >= self.attempts else MAX_ATTEMPTS

    @property
    def kind(self) -> str:
        """`advance`, `plan`, `train`, `score` or `select`."""
        return self.task.partition(":")[0]

    @property
    def shard(self) -> int:
        """The shard's index, of a `score` task."""
        return shard_index(self.task)


def shard_index(task: str) -> int:
    """The index in `score:<index>`."""
    return int(task.partition(":")[2])


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
    tokens_settled: int  # of the shards that are done
    training_tokens: int  # read so far by the training in flight
    rejects: int
    tokens_per_second: float
    tokens_per_second_ever: float  # since the first shard was claimed
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
    leases_lost: int  # their workers died or hung
    leases_refused: int  # calls of workers whose lease was over: lost, or of a job that had ended


def without_password(url: str) -> str:
    """A Redis URL as it may be shown."""
    return re.sub(r"(//[^/@]*:)[^/@]*@", r"\1***@", url)


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
        self._me = uuid.uuid4().hex
        self._scripts: dict[str, Callable[..., Any]] = {n: self.redis.register_script(s) for n, s in SCRIPTS.items()}

    def _call(self, name: str, *args: Any) -> Any:
        return self._scripts[name](keys=[self.prefix], args=args)

    # -- jobs
    def add(
        self, job: str, created_at: int, view: dict[str, Any], *, owner: str | None = None, priority: int = 0
    ) -> None:
        """Makes a job known (`created_at` in microseconds since 1970). Each step of priority doubles its share."""
        self._call("add", job, created_at, json.dumps(view), owner or "", 2.0**priority)

    def admit(self, job: str, owner: str | None, limits: dict[str, int]) -> tuple[str, int] | None:
        """Counts a job that is about to be added among its owner's, unless a limit on these is reached: which, at what.

        Limits are those on the unfinished `jobs`, and on the `shards` and `bytes` of text that they are to score.
        """
        pairs = [part for pair in limits.items() for part in pair]
        answer = self._call("admit", job, owner or "", _ADMITTED, *pairs)
        return None if answer is None else (answer[0], int(answer[1]))

    def submit(self, job: str, kind: str, count: int, view: dict[str, Any], text_bytes: int = 0) -> bool:
        """Adds the `count` tasks of a job's next stage; False if it has them, is past it, or has ended.

        `text_bytes` is what the shards have in all, those that a `train` stage comes before too.
        """
        shards = view.get("shards_total", 0)
        return bool(self._call("submit", job, kind, count, json.dumps(view), text_bytes, shards))

    def end(self, job: str, status: Status, view: dict[str, Any]) -> None:
        """Ends a job and drops its tasks. For a job that has ended it only renews the view."""
        self._call("end", job, status, json.dumps(view))

    def forget(self, job: str) -> None:
        """Drops a job that the workspace does not know."""
        self._call("forget", job)

    # -- leases
    def claim(self, worker: str, kinds: Iterable[str], wanted: tuple[str, str] = ("", "")) -> Lease | None:
        """A lease on a task of one of these kinds, looked for in their order, least-served job first.

        A `wanted` (job, task) is taken before others of its kind, if it is to be had.
        """
        answer = self._call("claim", worker, self.lease_ms, *wanted, *kinds)
        if answer is None:
            return None
        job, task, fence, attempts, error, elsewhere = answer
        return Lease(job, task, int(fence), int(attempts), error, int(elsewhere))

    def next_shard(self, worker: str) -> tuple[str, str] | None:
        """The (job, task) that this worker may well get when it next claims a shard. Nobody is kept from it."""
        answer = self._call("next", worker, 2 * self.lease_ms)
        return None if answer is None else (answer[0], answer[1])

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

    def redo(self, lease: Lease) -> None:
        """Gives up a task whose inputs are gone: the job goes on from what its files call for. Raises LeaseLost."""
        self._held(self._call("redo", lease.job, lease.task, lease.fence))

    def reclaim(self, worker: str) -> int:
        """Gives back what a worker that is known to be dead held; returns how many tasks."""
        return int(self._call("reclaim", worker))

    @staticmethod
    def _held(answer: Any) -> None:
        if not int(answer):
            raise LeaseLost

    # -- reading
    def jobs_with(self, kind: str) -> list[str]:
        """The ids of the jobs that have tasks of this kind, least-served first."""
        found: list[str] = self.redis.zrange(f"{self.prefix}active:{kind}", 0, -1)
        return found

    def state(self, job: str) -> JobState | None:
        """What Redis knows of a job, or None."""
        return self.states([job])[0]

    def states(self, jobs: list[str]) -> list[JobState | None]:
        """The same of several jobs in one round trip."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.hget(f"{self.prefix}clock", "ahead")
            for job in jobs:
                pipe.hgetall(f"{self.prefix}job:{job}")
                pipe.hgetall(f"{self.prefix}lease:{job}")
                pipe.hvals(f"{self.prefix}rate:{job}")
            (seconds, micros), ahead, *rows = pipe.execute()
        now = seconds * 1000 + micros // 1000 + int(float(ahead or 0))
        return [_state(now, *rows[i : i + 3]) for i in range(0, len(rows), 3)]

    def owner(self, job: str) -> str | None:
        """Whose job it is, "" of nobody's, or None if the job is not known."""
        return cast("str | None", self.redis.hget(f"{self.prefix}job:{job}", "owner"))

    def jobs(self) -> list[str]:
        """The ids of all jobs, oldest first."""
        return cast(list[str], self.redis.zrange(f"{self.prefix}jobs", 0, -1))

    def leases(self, job: str) -> list[HeldLease]:
        """The tasks of a job that a worker has, by the worker's name."""
        entries = {task: json.loads(text) for task, text in self.redis.hgetall(f"{self.prefix}lease:{job}").items()}
        held = {task: entry for task, entry in entries.items() if entry["fence"]}
        names = [entry["worker"] for entry in held.values()]
        seen = self.redis.zmscore(f"{self.prefix}workers", names) if names else []
        ahead = int(float(self.redis.hget(f"{self.prefix}clock", "ahead") or 0))
        found = [
            HeldLease(
                worker=entry["worker"],
                device=entry.get("device", ""),
                task=task,
                attempts=int(entry["attempts"]),
                documents=int(entry["documents"]),
                tokens=int(entry["tokens"]),
                claimed_at=int(entry["claimed"]) - ahead,
                seen_at=int(last or entry["claimed"]) - ahead,
            )
            for (task, entry), last in zip(held.items(), seen, strict=True)
        ]
        return sorted(found, key=lambda lease: (lease.worker, lease.task))

    def page(
        self, limit: int, cursor: str | None, status: Status | None, owner: str | None = None
    ) -> tuple[list[str], str | None]:
        """Ids of up to `limit` jobs, newest first, and the cursor of the next page. ValueError for a strange cursor."""
        key = f"{self.prefix}jobs" if status is None else f"{self.prefix}status:{status}"
        if owner is not None:
            key = f"{self.prefix}owner:{owner}" + ("" if status is None else f":{status}")
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
            leases_lost=int(totals.get("lost", 0)),
            leases_refused=int(totals.get("refused", 0)),
        )

    def holders(self) -> set[str]:
        """The names of the workers that hold a lease."""
        jobs = {job for kind in _KINDS for job in self.redis.zrange(f"{self.prefix}active:{kind}", 0, -1)}
        with self.redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.hvals(f"{self.prefix}lease:{job}")
            entries = [json.loads(text) for texts in pipe.execute() for text in texts]
        return {entry["worker"] for entry in entries if entry["fence"]}

    # -- has Redis lost its data?
    def epoch(self) -> str | None:
        """None if this data is that of the server now running; else what to give to `reconciled` after a rebuild."""
        run_id = str(self.redis.info("server")["run_id"])
        return None if self.redis.get(f"{self.prefix}epoch") == run_id else run_id

    def rebuild(self) -> None:
        """Makes a rebuild this object's alone for a few seconds from now. Raises Rebuilding while it is another's."""
        key = f"{self.prefix}rebuilding"
        if not self.redis.set(key, self._me, nx=True, px=_REBUILDING):
            if self.redis.get(key) != self._me:
                raise Rebuilding("the queue is being rebuilt from the workspace")
            self.redis.pexpire(key, _REBUILDING)

    def reconciled(self, epoch: str) -> None:
        """Notes that the queue has been rebuilt from the workspace on this server."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(f"{self.prefix}epoch", epoch)
            pipe.delete(f"{self.prefix}rebuilding")
            pipe.execute()


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
    tokens_done = number("tokens_done") + sum(int(entry["tokens"]) for entry in scoring)
    if rates:
        recent = [rate for rate in map(json.loads, rates) if rate["bucket"] * _BUCKET > now - RATE_WINDOW]
        elapsed = max(1.0, (now - min((rate["bucket"] * _BUCKET for rate in recent), default=now)) / 1000)
        pace = sum(rate["tokens"] for rate in recent) / elapsed
    else:
        pace = number("tokens_done") / max(0.001, (number("scored_at") - number("scoring_at")) / 1000)
    return JobState(
        status=cast(Status, job["status"]),
        view=json.loads(job["view"]),
        started_at=number("started_at") or None,
        updated_at=number("updated_at") or None,
        shards_total=number("shards_total"),
        shards_done=number("shards_done"),
        documents_done=number("documents_done") + sum(int(entry["documents"]) for entry in scoring),
        tokens_done=tokens_done,
        tokens_settled=number("tokens_done"),
        training_tokens=int(flying["train"]["tokens"]) if "train" in flying else 0,
        rejects=number("rejects"),
        tokens_per_second=max(0.0, pace),
        tokens_per_second_ever=tokens_done / max(1.0, (now - (number("scoring_at") or now)) / 1000),
        shards_leased=sum(bool(entry["fence"]) for entry in scoring),
        shards_failed=sum(not entry["fence"] and bool(entry["error"]) for entry in scoring),
        worker_ms=cpu + gpu,
        gpu_ms=gpu,
    )
