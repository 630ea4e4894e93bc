"""Memory of a process, as Linux counts it: MiB, mapped pages of files included."""

from pathlib import Path


def resident_mib(pid: int) -> float:
    """What a process has now."""
    return _status_mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The most that a process had at a time."""
    return _status_mib(pid, "VmHWM")


def _status_mib(pid: int, name: str) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024
