"""Starting processes that never outlive this one, not even when it is killed with `kill -9`."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

# Run by a bare interpreter that then becomes the program: the kernel sends it a signal when its parent dies.
# prctl option 1 is PR_SET_PDEATHSIG; it survives the exec. The parent may have died before it was set.
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
    keep: Sequence[int] = (),
) -> "subprocess.Popen[bytes]":
    """Starts `command` (its first word a full path), which gets `death_signal` when this process ends.

    `keep` are file descriptors that it inherits. Call from a thread that lasts as long as the process: the kernel
    takes the end of the thread that started a child for the end of its parent.
    """
    launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(int(death_signal)), str(os.getpid()), *command]
    # A session of its own: Ctrl-C in the terminal reaches only the parent, which stops its children in order.
    # What runs is this interpreter and a program that this package names.
    return subprocess.Popen(launch, env=env, stdout=stdout, pass_fds=tuple(keep), start_new_session=True)  # noqa: S603


def python(statement: str) -> list[str]:
    """The command that runs a statement in this interpreter, with no import from the current folder."""
    return [sys.executable, "-c", f"import sys; sys.path[:] = [p for p in sys.path if p]; {statement}"]


def stop(child: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Ends a child: SIGTERM, and SIGKILL if it is still there after a while."""
    child.terminate()
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
