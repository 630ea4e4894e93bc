"""Processes for tests, forked from a server that has imported what a worker imports, which takes seconds each time."""

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union

CONTEXT = multiprocessing.get_context("forkserver")
_PARENT_DEATH_SIGNAL = 1  # option of prctl
_IMPORTS = "tests.forked_imports"


def start_server() -> None:
    """Starts the server that processes are forked from, unless it runs. Call it in the root of the checkout."""
    CONTEXT.set_forkserver_preload([_IMPORTS])
    multiprocessing.forkserver.ensure_running()


class Forked:
    """A process that calls a function of a module, with the interface of `subprocess.Popen`.

    Its exit status is what the function returns, if that is a number, else 0. `env` is its whole environment; `output`
    is a file for its standard output.
    """

    def __init__(
        self, call: Callable[..., object], *given: Any, env: Mapping[str, str], output: Path | None = None
    ) -> None:
        self._process = CONTEXT.Process(target=_run, args=(call, given, dict(env), output))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """`returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end, and gives `returncode`. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the process has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


Worker = Union[Forked, "subprocess.Popen[bytes]"]
StartWorker = Callable[..., Worker]


def _run(call: Callable[..., object], given: tuple[Any, ...], env: dict[str, str], output: Path | None) -> None:
    """In the new process: what `subprocesses.start` does, then the call."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, int(signal.SIGKILL))  # the server ends with the test process
    os.setsid()
    os.environ.clear()
    os.environ.update(env)
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status = call(*given)
    sys.exit(status if isinstance(status, int) else 0)
