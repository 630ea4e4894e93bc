"""A plain implementation of selections, by one sort over all documents, that tests compare with."""

from dataclasses import dataclass

import numpy as np

from pruner.ranks.bands import band
from pruner.spec import SelectionSpec


@dataclass(frozen=True)
class Selected:
    """The documents that a selection keeps. `kept` int64, ascending; `percentile` float64, 100 · rank / N of each.

    They have the ranks [`start`, `stop`), which are None of a selection within domains: its documents are no run.
    """

    kept: np.ndarray
    percentile: np.ndarray
    start: int | None
    stop: int | None


def select(
    nll: np.ndarray,
    n_tokens: np.ndarray,
    spec: SelectionSpec,
    domains: np.ndarray | None = None,
    key: np.ndarray | None = None,
) -> Selected:
    """Selects among N documents.

    nll float64 [N] and n_tokens int64 [N] in the order of (file, row); domains int [N], a code for each document, for
    selections within a domain, whose ranks and N are then those of the document's domain. Documents are ordered by
    `key` [N], by default nll / n_tokens, equal ones by their place in the arrays.
    """
    key = nll / n_tokens if key is None else key
    if spec.within is None:
        order = np.argsort(key, kind="stable")
        bounds = np.array([0, len(key)])
    else:
        if domains is None:
            raise ValueError("a selection within domains needs the documents' domains")
        order = np.lexsort((key, domains))
        starts = np.flatnonzero(np.diff(domains[order], prepend=domains[order][:1] - 1))
        bounds = np.append(starts, len(key))
    below = np.concatenate(([0], np.cumsum(n_tokens[order])))
    kept: list[np.ndarray] = []
    percentile: list[np.ndarray] = []
    start, stop = 0, 0
    for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        start, stop = band(below[first : last + 1], spec)
        kept.append(order[first + start : first + stop])
        percentile.append(100.0 * np.arange(start, stop) / max(1, last - first))
    chosen, percentiles = np.concatenate(kept), np.concatenate(percentile)
    ascending = np.argsort(chosen)
    run = (start, stop) if spec.within is None else (None, None)
    return Selected(chosen[ascending].astype(np.int64), percentiles[ascending], *run)
