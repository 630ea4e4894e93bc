"""Settings of a process that scores or trains: OpenMP's waiting and malloc's thresholds. Imports no torch."""

import ctypes
import os
import sys

_SPIN_COUNT = "30000"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEEP_BYTES = 1 << 30


def tune_process() -> None:
    """Call once, at the entry point of a process that will run models, before torch is imported. Changes no score."""
    # OpenMP threads wait for each other by spinning, which makes small operations ten times slower on cores that are
    # shared with other processes. A short spin costs nothing on idle cores. OpenMP reads this when torch is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    if sys.platform != "linux":
        return
    # By default glibc returns every large array to the kernel when it is freed, and the page faults then take more time
    # than the arithmetic. Keeping the memory makes scoring on a CPU twice as fast. Other C libraries lack mallopt.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
