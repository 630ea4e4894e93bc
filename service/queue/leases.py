"""The queue in Redis: leases on tasks, and the index of jobs. Keys and invariants: prelude.lua."""

import json
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

from redis import Redis, RedisError
from redis.backoff import ExponentialBackoff
from redis.exceptions import LockError
from redis.retry import Retry

from pruner.errors import InputError
from service.contract.names import RESOURCES, Resource
from service.queue.tasks import NO_RESULT, Done, HeldLease, JobState, Lease, LeaseLost, NodeTasks

SCRIPTS = ("add", "submit", "claim", "beat", "done", "put_back", "drop", "end")
_REBUILDING = 10_000  # ms for which a process that rebuilds has the queue to itself after each sign of progress
_ADMISSION_SECONDS = 30.0  # the longest that the admission of one job may hold up its owner's others


class Rebuilding(RedisError):
    """Redis lost its data and another process restores them: as if Redis did not answer, for seconds."""


@dataclass(frozen=True)
class Stats:
    """Sizes for the metrics."""

    pending: dict[Resource, int]
    leased: dict[Resource, int]
    workers: int
    totals: dict[str, int]


def without_password(url: str) -> str:
    """A Redis URL as it may be shown."""
    return re.sub(r"(//[^/@]*:)[^/@]*@", r"\1***@", url)


def connect(url: str) -> "Redis":
    """A client for a redis://, rediss:// or unix:// URL, with time-outs and few retries. Raises InputError."""
    try:
        return Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="backslashreplace",  # errors may name files whose names are no text
            socket_timeout=10,
            socket_connect_timeout=5,
            health_check_interval=30,
            retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 3),
        )
    except ValueError as error:
        raise InputError(f"--redis {without_password(url)}: {error}") from None


class Queue:
    """A TaskQueue in Redis, for the jobs of one workspace. All methods raise redis.RedisError when Redis is away."""

    def __init__(self, redis: "Redis", workspace_id: str, lease_seconds: float = 15.0) -> None:
        self.redis: Any = redis  # its methods are typed for the synchronous and the asynchronous client at once
        self.prefix = f"winnow:{{{workspace_id}}}:"
        self.lease_ms = round(lease_seconds * 1000)
        self._me = uuid.uuid4().hex
        here = files("service.queue")
        prelude = here.joinpath("prelude.lua").read_text()
        self._scripts: dict[str, Callable[..., Any]] = {
            name: self.redis.register_script(prelude + here.joinpath(f"{name}.lua").read_text()) for name in SCRIPTS
        }

    def _call(self, name: str, *args: Any) -> Any:
        return self._scripts[name](keys=[self.prefix], args=args)

    # -- jobs
    def add(
        self, job: str, created: int, labels: Sequence[str], summary: str, owner: str | None = None, priority: int = 0
    ) -> None:
        """As TaskQueue."""
        self._call("add", job, created, owner or "", 2.0**priority, json.dumps(labels), summary)

    def submit(self, job: str, tasks: NodeTasks, summary: str = "{}") -> bool:
        """As TaskQueue."""
        bounds = ",".join(f"{some.start}-{some.stop - 1}" for some in tasks.parts)
        counters = json.dumps(dict(tasks.counters))
        return bool(self._call("submit", job, tasks.node, tasks.resource, summary, counters, bounds))

    def end(self, job: str, labels: Sequence[str], summary: str, *, closed: bool) -> None:
        """As TaskQueue."""
        self._call("end", job, "closed" if closed else "open", json.dumps(labels), summary, *RESOURCES)

    def forget(self, job: str) -> None:
        """As TaskQueue."""
        self._call("end", job, "gone", "[]", "", *RESOURCES)

    def drop(self, job: str, prefix: str) -> None:
        """Drops the tasks of the nodes whose names begin with `prefix`. Workers that hold one lose its lease."""
        self._call("drop", job, prefix, *RESOURCES)

    @contextmanager
    def admission(self, owner: str | None) -> Iterator[None]:
        """Holds up the owner's other submissions, so that quotas are counted one job after the other."""
        lock = self.redis.lock(f"{self.prefix}admission:{owner or ''}", timeout=_ADMISSION_SECONDS)
        lock.acquire()
        try:
            yield
        finally:
            with suppress(LockError):  # it took longer, and the lock lapsed
                lock.release()

    # -- leases
    def claim(self, worker: str, resources: Sequence[Resource], other_than: str = "") -> Lease | None:
        """As TaskQueue."""
        answer = self._call("claim", worker, self.lease_ms, other_than, *resources)
        if answer is None:
            return None
        job, task, resource, fence, attempts, error, elsewhere = answer
        node, _, part = task.rpartition(":")
        return Lease(job, node, int(part), resource, int(fence), int(attempts), error, int(elsewhere))

    def beat(self, lease: Lease, worked_ms: float, note: str) -> None:
        """As TaskQueue."""
        task = (lease.job, lease.task, lease.fence)
        self._held(self._call("beat", *task, self.lease_ms, worked_ms, note, *RESOURCES))

    def done(self, lease: Lease, result: Done = NO_RESULT) -> None:
        """As TaskQueue."""
        pairs = [part for pair in result.counters.items() for part in pair]
        task, follow = (lease.job, lease.task, lease.fence), result.follow or ("", "")
        self._held(self._call("done", *task, result.worked_ms, *follow, result.totals, *pairs))

    def fail(self, lease: Lease, error: str, delay_seconds: float = 0.0) -> None:
        """As TaskQueue."""
        self._put_back(lease.job, lease.task, lease.fence, delay_seconds, error, "failed")

    def release(self, lease: Lease, delay_seconds: float = 0.0) -> None:
        """As TaskQueue."""
        self._put_back(lease.job, lease.task, lease.fence, delay_seconds, "", "released")

    def _put_back(self, job: str, task: str, fence: int, delay_seconds: float, error: str, why: str) -> None:
        self._held(self._call("put_back", job, task, fence, round(delay_seconds * 1000), error, why))

    def reclaim(self, worker: str) -> int:
        """Gives back the tasks of a worker that is known to be dead; how many there were."""
        count = 0
        for job in self._active_jobs():
            for task, entry in self._leases(job).items():
                if entry["worker"] == worker and entry["fence"]:
                    with suppress(LeaseLost):  # it lapsed and was taken, or the job ended, since it was read
                        self._put_back(job, task, entry["fence"], 0.0, "", "died")
                        count += 1
        for resource in RESOURCES:
            self.redis.zrem(f"{self.prefix}workers:{resource}", worker)
        return count

    @staticmethod
    def _held(answer: Any) -> None:
        if not int(answer):
            raise LeaseLost

    # -- reading
    def state(self, job: str) -> JobState | None:
        """As TaskQueue."""
        p, (wall, ahead) = self.prefix, self._clock()
        with self.redis.pipeline(transaction=True) as pipe:
            self._ask_workers(pipe, wall + ahead)
            for name in ("job", "lease", "count"):
                pipe.hgetall(f"{p}{name}:{job}")
            *live, about, leases, counts = pipe.execute()
        return _state(dict(zip(RESOURCES, live, strict=True)), ahead, about, leases, counts)

    def states(self, jobs: Sequence[str], resting: Callable[[str], bool]) -> list[JobState | None]:
        """What is known of several jobs, in three round trips; without tasks for those whose summary is `resting`."""
        p, (wall, ahead) = self.prefix, self._clock()
        with self.redis.pipeline(transaction=False) as pipe:
            self._ask_workers(pipe, wall + ahead)
            for job in jobs:
                pipe.hgetall(f"{p}job:{job}")
            rows = pipe.execute()
        live, found = dict(zip(RESOURCES, rows, strict=False)), rows[len(RESOURCES) :]
        at_work = [
            job for job, about in zip(jobs, found, strict=True) if "created" in about and not resting(about["summary"])
        ]
        with self.redis.pipeline(transaction=False) as pipe:
            for job in at_work:
                pipe.hgetall(f"{p}lease:{job}")
                pipe.hgetall(f"{p}count:{job}")
            rows = pipe.execute()
        tasks = dict(zip(at_work, zip(rows[::2], rows[1::2], strict=True), strict=True))
        return [_state(live, ahead, about, *tasks.get(job, ({}, {}))) for job, about in zip(jobs, found, strict=True)]

    def _ask_workers(self, pipe: Any, now: int) -> None:
        for resource in RESOURCES:
            pipe.zcount(f"{self.prefix}workers:{resource}", now - 2 * self.lease_ms, "+inf")

    def owner(self, job: str) -> str | None:
        """The owner of a job, "" of none, or None if the job is not known."""
        return cast("str | None", self.redis.hget(f"{self.prefix}job:{job}", "owner"))

    def labelled(self, label: str) -> list[str]:
        """The ids of the jobs under a label, oldest first."""
        return cast(list[str], self.redis.zrange(f"{self.prefix}label:{label}", 0, -1))

    def count(self, label: str) -> int:
        """How many jobs are under a label."""
        return int(self.redis.zcard(f"{self.prefix}label:{label}"))

    def page(self, label: str, limit: int, cursor: str | None) -> tuple[list[str], str | None]:
        """Ids of up to `limit` jobs under a label, newest first, and the cursor of the next page.

        Raises ValueError for a cursor that no page gave.
        """
        key = f"{self.prefix}label:{label}"
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
        p = self.prefix
        pending, leased = dict.fromkeys(RESOURCES, 0), dict.fromkeys(RESOURCES, 0)
        now = sum(self._clock())
        workers: set[str] = set()
        for resource in RESOURCES:
            workers.update(self.redis.zrangebyscore(f"{p}workers:{resource}", now - 2 * self.lease_ms, "+inf"))
            for job in self.redis.zrange(f"{p}active:{resource}", 0, -1):
                with self.redis.pipeline(transaction=False) as pipe:
                    pipe.hget(f"{p}job:{job}", f"ready:{resource}")
                    pipe.zcount(f"{p}later:{resource}:{job}", "-inf", now)
                    pipe.zcount(f"{p}later:{resource}:{job}", f"({now}", "+inf")
                    ready, due, held = pipe.execute()
                pending[resource] += due + int(ready or 0)
                leased[resource] += held
        totals = {name: int(value) for name, value in self.redis.hgetall(f"{p}totals").items()}
        return Stats(pending, leased, len(workers), totals)

    def holders(self) -> set[str]:
        """The names of the workers that hold a lease."""
        entries = [entry for job in self._active_jobs() for entry in self._leases(job).values()]
        return {entry["worker"] for entry in entries if entry["fence"]}

    def _active_jobs(self) -> set[str]:
        return {job for r in RESOURCES for job in self.redis.zrange(f"{self.prefix}active:{r}", 0, -1)}

    def _leases(self, job: str) -> dict[str, dict[str, Any]]:
        found = self.redis.hgetall(f"{self.prefix}lease:{job}")
        return {task: json.loads(text) for task, text in found.items()}

    def _clock(self) -> tuple[int, int]:
        """Redis' clock, and how far the queue's own is ahead of it, in milliseconds."""
        with self.redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hget(f"{self.prefix}clock", "ahead")
            (seconds, micros), ahead = pipe.execute()
        return seconds * 1000 + micros // 1000, int(float(ahead or 0))

    # -- has Redis lost its data?
    def epoch(self) -> str | None:
        """None if this data is that of the server now running; else the value for `reconciled` after a rebuild."""
        run_id = str(self.redis.info("server")["run_id"])
        return None if self.redis.get(f"{self.prefix}epoch") == run_id else run_id

    def rebuild(self) -> None:
        """Reserves the rebuild for this object, for a few seconds from now. Raises Rebuilding while another has it."""
        key = f"{self.prefix}rebuilding"
        if not self.redis.set(key, self._me, nx=True, px=_REBUILDING):
            if self.redis.get(key) != self._me:
                raise Rebuilding("the queue is being rebuilt from the workspace")
            self.redis.pexpire(key, _REBUILDING)

    def reconciled(self, epoch: str) -> None:
        """Notes that the queue was rebuilt from the workspace on this server."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(f"{self.prefix}epoch", epoch)
            pipe.delete(f"{self.prefix}rebuilding")
            pipe.execute()


def _state(
    live: dict[Resource, int],
    ahead: int,
    job: dict[str, str],
    leases: dict[str, str],
    counts: dict[str, str],
) -> JobState | None:
    if "created" not in job:
        return None
    entries = {task: json.loads(text) for task, text in leases.items()}
    counters: dict[str, dict[str, int]] = {}
    for name, value in counts.items():
        node, _, counter = name.rpartition("/")
        counters.setdefault(node, {})[counter] = int(float(value))
    held = [
        HeldLease(
            worker=entry["worker"],
            task=task,
            resource=entry["resource"],
            attempts=int(entry["attempts"]),
            claimed_at=int(entry["claimed"]) - ahead,
            seen_at=int(entry["seen"]) - ahead,
            note=entry["note"],
        )
        for task, entry in entries.items()
        if entry["fence"]
    ]
    return JobState(
        created=int(job["created"]),
        summary=job["summary"],
        started_at=int(job["started"]) if "started" in job else None,
        updated_at=int(job["updated"]) if "updated" in job else None,
        counters=counters,
        leases=sorted(held, key=lambda lease: (lease.worker, lease.task)),
        failed=[entry["error"] for entry in entries.values() if not entry["fence"] and entry["error"]],
        waiting=[resource for resource in RESOURCES if int(job.get(f"ready:{resource}", 0))],
        workers=live,
    )
