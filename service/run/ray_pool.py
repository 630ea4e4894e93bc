"""`winnow pool --ray`: workers as actors of a Ray cluster. Ray places them and starts them again; leases do the rest.

An actor keeps one worker process on its node, as `winnow serve` does on its own machine. Ray runs a lost actor anew,
on another node if need be, and makes it wait while no node has room, which is when an autoscaling cluster grows.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from redis import RedisError

from pruner.errors import InputError
from service.queue.leases import Queue, connect
from service.run.settings import Settings
from service.run.supervisor import Pool, WorkerProcess, open_jobs
from service.store.workspace import Workspace

log = logging.getLogger("winnow.pool")
IDLE_SECONDS = 60.0  # without a task before an actor that is not needed gives its place back to the cluster
_LOOK_SECONDS = 1.0  # between looks at the queue
_DRAIN_SECONDS = 10.0  # for an actor's worker to end the batch at hand


class Member:
    """The actor: one worker process, kept while the actor lives."""

    def __init__(self, settings: dict[str, Any], name: str) -> None:
        given = Settings(**settings)
        env = given.environment()
        # Ray sets it to the CPUs that it counts for the actor; a worker uses all of its node's, here as elsewhere,
        # since the last digits of scores may depend on it.
        env.pop("OMP_NUM_THREADS", None)
        queue = Queue(connect(given.redis or ""), Workspace(given.workspace).id, given.lease_seconds)
        self._pool = Pool([WorkerProcess(name, env, queue)], None)
        self._pool.start()

    def ready(self) -> str:
        """The host on which it runs."""
        return socket.gethostname()

    def stop(self) -> None:
        """Stops the worker, which gives its task back."""
        self._pool.stop()


@dataclass
class _Place:
    actor: Any
    ready: Any  # the reference to the answer of `ready`, which comes when Ray has placed the actor
    used_at: float


class RayPool:
    """Up to `count` actors: all of them at first and while there is work for them, fewer when some stay idle."""

    def __init__(self, ray: Any, settings: Settings, queue: Queue, count: int) -> None:
        gpu = settings.device == "cuda" or (settings.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
        self._ray = ray
        self._settings = settings.model_dump()
        self._queue = queue
        owner = f"ray-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._names = [f"{owner}-{number}" for number in range(count)]
        self._at_first = count
        self._member = ray.remote(
            num_cpus=1,
            num_gpus=1 if gpu else 0,
            max_restarts=-1,
            max_task_retries=-1,
            scheduling_strategy="SPREAD",
        )(Member)
        self._places: dict[str, _Place] = {}

    def look(self) -> None:
        """Starts the actors that are wanted now and drains those that are not. Raises RedisError."""
        self._drop_failed()
        stats = self._queue.stats()
        work = sum(stats.pending.values()) + sum(stats.leased.values())
        free = [name for name in self._names if name not in self._places]
        for name in free[: max(0, max(work, self._at_first) - len(self._places))]:
            actor = self._member.remote(self._settings, name)
            self._places[name] = _Place(actor, actor.ready.remote(), time.monotonic())
        self._at_first = 0
        now, busy = time.monotonic(), self._queue.holders()
        for name, place in self._places.items():
            if name in busy or not self._placed(place):
                place.used_at = now
        idle = [name for name, place in self._places.items() if now - place.used_at > IDLE_SECONDS]
        self.drain(idle[: max(0, len(self._places) - work)])

    def drain_all(self) -> None:
        """Stops all actors."""
        self.drain(list(self._places))

    def drain(self, names: list[str]) -> None:
        """Stops these actors: their workers end the batch at hand and give their tasks back."""
        places = [self._places.pop(name) for name in names]
        stopping = [place.actor.stop.remote() for place in places if self._placed(place)]
        if stopping:
            self._ray.wait(stopping, num_returns=len(stopping), timeout=_DRAIN_SECONDS)
        for place in places:
            self._ray.kill(place.actor, no_restart=True)

    def _placed(self, place: _Place) -> bool:
        return bool(self._ray.wait([place.ready], timeout=0)[0])

    def _drop_failed(self) -> None:
        """Forgets the actors that could not be made, and says why; the next look starts others."""
        for name, place in list(self._places.items()):
            if self._placed(place):
                try:
                    self._ray.get(place.ready)
                except self._ray.exceptions.RayError as error:
                    log.warning("worker %s could not be started: %s", name, " ".join(str(error).split()))
                    self.drain([name])


def run(settings: Settings) -> None:
    """Keeps the pool until SIGTERM or SIGINT, then drains it. Raises InputError for settings that are wrong."""
    if settings.ray is None or settings.redis is None or settings.workers is None:
        raise InputError("a pool on Ray needs --ray ADDRESS, --redis URL and --workers N")
    try:
        import ray
    except ImportError:
        raise InputError("ray is not installed here: pip install 'winnow[ray]'") from None
    workspace = Workspace(settings.workspace)
    jobs = open_jobs(settings, workspace)
    try:
        ray.init(address=settings.ray, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise InputError(f"--ray {settings.ray}: no cluster answers ({error})") from None
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray has set its own
        signal.signal(number, lambda *_: over.set())
    pool = RayPool(ray, settings.model_copy(update={"workspace": workspace.storage.url}), jobs.queue, settings.workers)
    sys.stdout.write(f"Winnow keeps up to {settings.workers} workers on Ray at {settings.ray}\n")
    sys.stdout.flush()
    while not over.is_set():
        try:
            pool.look()
        except RedisError as error:
            log.warning("waiting for Redis: %s", error)
        over.wait(_LOOK_SECONDS)
    pool.drain_all()
    ray.shutdown()
