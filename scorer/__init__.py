"""Documents in, (nll, n_tokens) out: models, tokenizing, scoring, training. Knows no file layout, job or HTTP."""

import ctypes
import os
import sys

# OpenMP's threads wait for each other by spinning, which on cores that are shared with others makes small operations
# ten times slower. A short spin costs nothing on idle cores. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

if sys.platform == "linux":
    # glibc gives every large array back to the kernel when it is freed, and page faults then take more time than the
    # arithmetic: keeping them scores twice as fast on a CPU. (M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h.)
    _mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda _parameter, _value: 0)
    for _parameter in (-3, -1):
        _mallopt(_parameter, 1 << 30)
