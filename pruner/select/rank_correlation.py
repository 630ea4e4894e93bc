"""Rank correlation (Spearman) of two scores, exact or from counts of bins; equal values share their mean rank."""

import numpy as np


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, float64 [D], of values [D] without NaN."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(values) else order
    ends = np.append(starts[1:], len(values))
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends - 1) / 2, ends - starts)
    return ranks


def of_ranks(first: np.ndarray, second: np.ndarray) -> float | None:
    """The correlation of two columns of ranks, float64 [D]; None where either is constant."""
    first, second = first - first.mean() if len(first) else first, second - second.mean() if len(second) else second
    spread = float(np.sqrt(np.dot(first, first)) * np.sqrt(np.dot(second, second)))
    return float(np.dot(first, second)) / spread if spread > 0 else None


def of_values(values: np.ndarray) -> dict[tuple[int, int], tuple[int, float | None]]:
    """Of each pair of columns of values float64 [D, S]: the documents that have both, not NaN, and the correlation."""
    there = ~np.isnan(values)
    columns = range(values.shape[1])
    whole = {i: average_ranks(values[:, i]) for i in columns if there[:, i].all()}
    found = {}
    for i in columns:
        for j in columns[i + 1 :]:
            if i in whole and j in whole:
                ranks = whole[i], whole[j]
            else:
                both = there[:, i] & there[:, j]
                ranks = average_ranks(values[both, i]), average_ranks(values[both, j])
            found[i, j] = len(ranks[0]), of_ranks(*ranks)
    return found


def of_counts(counts: np.ndarray) -> tuple[int, float | None]:
    """Documents and correlation of int64 [bins, bins]: the documents in each bin of two scores, in ascending order.

    Documents of one bin share their mean rank.
    """
    documents = int(counts.sum())
    deviations = []
    for axis in (1, 0):
        sizes = counts.sum(axis=axis, dtype=np.float64)
        ranks = np.cumsum(sizes) - (sizes + 1) / 2
        deviations.append((ranks - (documents - 1) / 2, sizes))
    (first, of_first), (second, of_second) = deviations
    spread = float(np.sqrt(np.dot(of_first, first**2)) * np.sqrt(np.dot(of_second, second**2)))
    return documents, float(first @ counts @ second) / spread if spread > 0 else None
