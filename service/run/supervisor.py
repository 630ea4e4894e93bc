"""`winnow serve`: runs the API, and supervises a private Redis and the workers (restart on exit, stop on shutdown)."""

import gc
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import uvicorn
from redis import RedisError

from pruner.errors import InputError
from service.contract.names import RESOURCES
from service.contract.quotas import Quotas
from service.http.keys import Keys
from service.jobs.jobs import Jobs
from service.kinds.model_files import cache_folder
from service.queue.leases import Queue, connect, without_password
from service.run import subprocesses as child
from service.run.app import create_app
from service.run.redis_server import RedisServer
from service.run.retention import Housekeeper
from service.run.settings import Settings
from service.store.workspace import Workspace, digest

log = logging.getLogger("winnow.serve")
_LOOK_SECONDS = 0.2  # between looks at the children
_PAUSE_SECONDS = 1.0  # between the starts of one worker
_STOP_SECONDS = 3.0  # for a worker to end the batch at hand


class WorkerProcess:
    """A worker process, started again when it dies."""

    def __init__(self, name: str, env: dict[str, str], queue: Queue, gpus: Sequence[str] = ()) -> None:
        """`gpus` are those of the pool, the worker's own first."""
        self._name = name
        self._env = env
        self._queue = queue
        self._gpus = list(gpus)
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._clean = False  # what a worker of this name held was given back

    def ensure(self) -> None:
        """Starts the worker unless it runs. The tasks of a dead one are given back at once."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            log.warning("worker %s ended with %s and is started again", self._name, self._process.returncode)
            self._process = None
        if not self._clean:
            self._queue.reclaim(self._name)
            self._clean = True
        if time.monotonic() < self._start_at:
            return
        command = child.python(f"from service.run.worker_process import main; main({self._name!r}, {self._gpus!r})")
        self._process = child.start(command, death_signal=signal.SIGKILL, env=self._env)
        self._start_at = time.monotonic() + _PAUSE_SECONDS
        self._clean = False

    def terminate(self) -> None:
        """Tells the worker to stop."""
        if self._process is not None:
            self._process.terminate()

    def stop(self, deadline: float) -> None:
        """Waits until the worker has stopped; kills one that has not at the deadline, of the monotonic clock."""
        if self._process is not None:
            child.stop(self._process, max(0.0, deadline - time.monotonic()))


class Pool:
    """The child processes: a private Redis, if there is one, and the workers. A thread starts, restarts and stops them.

    One thread does all of it, as the kernel takes the end of the thread that started a child for the parent's end.
    """

    def __init__(self, workers: list[WorkerProcess], redis: RedisServer | None) -> None:
        self._workers = workers
        self._redis = redis
        self._over = threading.Event()
        self._last = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pool")

    def start(self) -> None:
        """Starts the workers and watches over them."""
        self._thread.start()

    def terminate(self) -> None:
        """Tells the workers to stop."""
        self._over.set()

    def stop(self) -> None:
        """Waits until the workers have stopped, and Redis."""
        self._over.set()
        self._last.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                if self._redis is not None and not self._redis.running:
                    log.warning("Redis ended and is started again")
                    self._redis.start()
                for worker in self._workers:
                    worker.ensure()
                if self._redis is not None:
                    self._redis.handle_full_disk()
            except (RedisError, InputError, OSError) as error:
                log.warning("cannot look after the workers: %s", error)
            self._over.wait(_LOOK_SECONDS)
        deadline = time.monotonic() + _STOP_SECONDS
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.stop(deadline)
        self._last.wait()
        if self._redis is not None:
            self._redis.stop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], leaving: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._leaving = leaving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _tune_garbage_collection()
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._leaving()  # the workers end their batches while the last requests are answered
        await super().shutdown(sockets)


def _tune_garbage_collection() -> None:
    """Makes full collections short and rare: each one holds up all requests."""
    gc.collect()
    gc.freeze()  # modules and routes stay: no collection looks through them again
    gc.set_threshold(10_000, 10, 50)  # one answer may hold 10,000 objects, which are no garbage yet


def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM or SIGINT, and leaves no process behind. Raises InputError for wrong settings."""
    with ExitStack() as stack:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _exit)
        listener = stack.enter_context(_listen(settings.host, settings.port))
        workspace = Workspace(settings.workspace)
        server = None
        if settings.redis is None:
            server = RedisServer(redis_folder(workspace))
            stack.callback(server.close)
            server.start()
            settings = settings.model_copy(update={"redis": server.url})
        jobs = open_jobs(settings, workspace)
        if settings.public and not Keys(workspace.storage).required():
            log.warning(
                "no request is accepted yet: make a key with `winnow keys make --workspace %s`", settings.workspace
            )
        for root in (*settings.corpus_root, *settings.model_root):
            if "://" not in root and not Path(root).exists():
                log.warning("%s: no such folder; nothing under this root can be read now", root)
        pool = Pool(_workers(settings, jobs.queue, alone=server is not None), server)
        stack.callback(pool.stop)
        pool.start()
        housekeeper = Housekeeper(settings)
        stack.callback(housekeeper.stop)
        housekeeper.start()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"http://{host}:{listener.getsockname()[1]}"
        app = create_app(jobs, settings.rules, always_keys=settings.public)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False
        )
        _Server(config, lambda: _say(f"Winnow is ready at {address}"), pool.terminate).run(sockets=[listener])


def open_jobs(settings: Settings, workspace: Workspace) -> Jobs:
    """The jobs of a workspace, on the Redis of the settings. Raises InputError if it does not answer."""
    url = settings.redis or ""
    quotas = Quotas(jobs=settings.quota_jobs, shards=settings.quota_shards, bytes=settings.quota_bytes)
    jobs = Jobs(workspace, connect(url), settings.lease_seconds, quotas)
    try:
        jobs.check()
    except RedisError as error:
        raise InputError(f"--redis {without_password(url)} does not answer: {error}") from None
    return jobs


def _workers(settings: Settings, queue: Queue, *, alone: bool) -> list[WorkerProcess]:
    """A light worker, and the scoring ones: one a GPU, else one."""
    gpus = _gpus() if settings.device != "cpu" else []
    count = settings.workers if settings.workers is not None else max(1, len(gpus))
    # On a Redis of our own the names are the same at each start, so that what a killed service held is given back.
    owner = "serve" if alone else f"serve-{socket.gethostname()}-{os.getpid()}"
    light = settings.model_copy(update={"resources": ("light",)}).environment()
    workers = [WorkerProcess(f"{owner}-light", light, queue)]
    for number in range(count):
        env = settings.model_copy(update={"resources": RESOURCES}).environment()
        own = number % max(1, len(gpus))
        if gpus:
            env["CUDA_VISIBLE_DEVICES"] = gpus[own]
        workers.append(WorkerProcess(f"{owner}-{number}", env, queue, [*gpus[own:], *gpus[:own]]))
    return workers


def _gpus() -> list[str]:
    """The GPUs of this machine as CUDA_VISIBLE_DEVICES names them, without asking torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name not in ("", "-1")]
    nodes = [path for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]
    return [str(number) for number in range(len(nodes))]


def redis_folder(workspace: Workspace) -> Path:
    """Where the private Redis of a workspace keeps its data."""
    local = workspace.storage.local("redis")
    return local if local is not None else cache_folder() / "redis" / digest(workspace.storage.url)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
        # Connections inherit it. asyncio sets it only on sockets that say that they are TCP; without it, an answer of
        # two parts waits 40 ms for the client's acknowledgement of the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def _exit(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # a further signal does not interrupt the stopping of the children
    raise SystemExit(0)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
