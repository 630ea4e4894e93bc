"""The key that ranks documents, and perplexity. This is the only definition of both."""

import numpy as np


def score_key(nll: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
    """The mean NLL of a token in nats, float64: ln(perplexity). Documents are ranked by it."""
    return np.asarray(nll / n_tokens)


def perplexity(key: np.ndarray) -> np.ndarray:
    """e to the power of each key; infinite where float64 cannot hold it."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(key))
