"""Documents in, (nll, n_tokens) out: models, tokenizing, scoring, training. Knows no file layout, job or HTTP."""

import os

# OpenMP's threads wait for each other by spinning, which on cores that are shared with others makes small operations
# ten times slower. A short spin costs nothing on idle cores. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
