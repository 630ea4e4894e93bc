"""Which rows of the table of scores bands of ranks keep, and their percentiles: 100 · rank / N."""

from collections.abc import Sequence

import numpy as np


def kept_by_rank(rank: np.ndarray, band: tuple[int, int], documents: int) -> tuple[np.ndarray, np.ndarray]:
    """Of rows with ranks int64 [R], -1 without one: kept bool [R], percentile float64 [R], valid where kept."""
    first, last = band
    return (rank >= first) & (rank < last), 100.0 * rank / max(1, documents)


def kept_inside(
    position: np.ndarray, bounds: np.ndarray, bands: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray]:
    """As `kept_by_rank`, with a band of each domain. Positions and bounds as of `ranks_inside`."""
    domain, rank = ranks_inside(position, bounds)
    first, last = np.array(bands, dtype=np.int64).reshape(-1, 2).T
    kept = (rank >= first[domain]) & (rank < last[domain])
    return kept, 100.0 * rank / np.maximum(1, np.diff(bounds)[domain])


def ranks_inside(position: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Domain and rank inside it of rows, int64 [R] each; 0 and -1 for rows without a rank.

    position int64 [R] is that in the arrays `inside_*` of an index, or -1; bounds int64 [domains + 1] are those of its
    domains there.
    """
    domain = np.maximum(np.searchsorted(bounds, position, side="right") - 1, 0)
    return domain, np.where(position < 0, -1, position - bounds[domain])
