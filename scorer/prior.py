"""Token priors: how often each token occurs in a sample of a corpus, and how common the tokens of documents are.

Loads no torch.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scorer.tokenizer.backends import Encoded
from scorer.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenPrior:
    """The number of occurrences of each token id, [V] int64."""

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, tokenizer: Tokenizer) -> "TokenPrior":
        """The prior of a tokenizer before anything is counted."""
        return cls(np.zeros(tokenizer.largest + 1, np.int64))

    def add(self, tokens: Encoded) -> None:
        """Counts the tokens of some documents."""
        self.counts[:] += np.bincount(tokens.ids, minlength=len(self.counts))

    def measure(self, tokens: Encoded) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The mean and the standard deviation of ln(frequency) over the tokens of each document, [D]; NaN without one.

        The frequency of a token is (its count + 1) / (all counts + V).
        """
        log_frequency = np.log(self.counts + 1.0) - np.log(float(self.counts.sum() + len(self.counts)))
        values, lengths = log_frequency[tokens.ids], tokens.lengths
        document = np.repeat(np.arange(len(tokens)), lengths)
        with np.errstate(invalid="ignore"):
            mean = np.bincount(document, values, len(tokens)) / lengths
            deviation = np.sqrt(np.bincount(document, (values - mean[document]) ** 2, len(tokens)) / lengths)
        return mean, deviation
