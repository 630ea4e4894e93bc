"""Documents and tokens of each domain below every `step`-th rank: what is below any rank is a mark and a few documents.

A report names the largest domains alone, so marks have a column for each of them, and one for all others. If there are
no others, or just one, the columns are the domains by their codes.
"""

import numpy as np

from pruner.ranks.scratch import ScratchArray
from pruner.select.domains import DOMAINS_MAX, by_size

STEP = 1 << 15  # ranks between two marks: a preview reads 12 bytes for each, twice; marks take 0.5 bytes a document


def column_count(domains: int) -> int:
    """The number of columns for so many domains."""
    return min(domains, DOMAINS_MAX + 1)


def column_of_domains(order: np.ndarray, columns: int) -> np.ndarray:
    """The column of each domain by its code, int32 [domains]. `order` int64 [domains]: codes, the largest first."""
    if columns == len(order):
        return np.arange(columns, dtype=np.int32)
    found = np.full(len(order), columns - 1, dtype=np.int32)
    found[order[: columns - 1]] = np.arange(columns - 1)
    return found


def write_marks(target: ScratchArray, domain: np.ndarray, below: np.ndarray, sizes: np.ndarray) -> None:
    """Appends the counts below rank 0, STEP and so on: documents and tokens of each column, as one int64 array.

    In the order of the ranks: domain int [N], the codes of domains; below int64 [N + 1], the tokens of all documents
    with a lower rank. sizes int64 [domains]: the documents of each.
    """
    columns = column_count(len(sizes))
    column = column_of_domains(by_size(sizes), columns)
    counts = np.zeros((columns, 2), dtype=np.int64)
    for first in range(0, len(domain) + 1, STEP):
        target.append(counts.reshape(-1))
        part = slice(first, first + STEP)
        counts += count_columns(column[domain[part]], np.diff(below[first : first + STEP + 1]), columns)


def count_columns(column: np.ndarray, tokens: np.ndarray, columns: int) -> np.ndarray:
    """Documents and tokens of each column, int64 [columns, 2]. column and tokens are int [D]."""
    counts = np.zeros((columns, 2), dtype=np.int64)
    counts[:, 0] = np.bincount(column, minlength=columns)
    counts[:, 1] = np.bincount(column, tokens, columns)  # sums in float64, which are exact below 2^53
    return counts
