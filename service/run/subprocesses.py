"""Child processes that end with this process, even if it is killed with `kill -9`."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

# A bare interpreter sets the parent-death signal (prctl option 1, PR_SET_PDEATHSIG, kept across exec) and becomes the
# program. It exits if the parent died before the signal was set.
_LAUNCH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, int(sys.argv[1])); "
    "os.getppid() == int(sys.argv[2]) or sys.exit(1); os.execv(sys.argv[3], sys.argv[3:])"
)


def start(
    command: Sequence[str],
    *,
    death_signal: signal.Signals,
    env: Mapping[str, str] | None = None,
    stdout: int | IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Starts `command`, whose first word is a full path. The child gets `death_signal` when this process ends.

    `pass_fds` are file descriptors that the child inherits. Call this from a thread that lives as long as the process:
    the kernel sends the signal when the thread that started the child ends.
    """
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(int(death_signal)), str(os.getpid()), *command]
    # A new session: Ctrl-C in the terminal reaches only the parent, which stops its children in order.
    # S603: the command is built from programs that this package names, never from user input.
    return subprocess.Popen(launch, env=env, stdout=stdout, pass_fds=tuple(pass_fds), start_new_session=True)  # noqa: S603


def python(statement: str) -> list[str]:
    """The command that runs a Python statement in this interpreter; the current folder is not on the import path."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = [p for p in sys.path if p]; {statement}"]


def stop(child: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Stops a child with SIGTERM, and with SIGKILL if it is still running after `seconds`."""
    child.terminate()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
