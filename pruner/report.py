"""What a job's scores look like: counts, quantiles, histograms, and what each selection does to the domains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pruner.select.bands import Selected
from pruner.spec import SelectionSpec
from pruner.tables.score_table import Eligible

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)  # percent
BIN = 0.05  # nats, of the histogram of ln(perplexity)
_BINS_MAX = 2_000  # beyond which bins are made wider, by whole factors
_LENGTH_ROWS = 24  # of the table of length against perplexity
DOMAINS_MAX = 1_000  # that are named; the smaller ones are summed
SHORT_TOKENS = 32  # under which a document's perplexity says little


def scores_report(
    eligible: Eligible, counts: dict[str, Any], reasons: dict[str, int], context: int | None = None
) -> dict[str, Any]:
    """The part of a report that no selection changes. `context` is the reference's limit in tokens, if it has one."""
    key = eligible.nll / eligible.n_tokens
    tokens = eligible.n_tokens
    domains = _counts(eligible, np.arange(len(key)))
    return {
        "documents": counts["documents"],
        "tokens": counts["tokens"],
        "training": counts["training"],
        "rejects": {"documents": counts["rejects"], "reasons": reasons},
        "eligible": {"documents": len(key), "tokens": int(tokens.sum())},
        "perplexity": {"quantiles": _quantiles(key)},
        "histogram": histogram([binned(key, tokens)]),
        "lengths": _lengths(key, tokens),
        "short": {"under_tokens": SHORT_TOKENS, "documents": int(np.count_nonzero(tokens < SHORT_TOKENS))},
        "cut": {"context": context, "documents": int(np.count_nonzero(tokens >= context)) if context else 0},
        "equal": _equal(key),
        "domains": domain_rows(eligible.domain_names, domains[0], *domains, medians=_medians(eligible, key)),
    }


def selection_report(eligible: Eligible, selected: Selected, spec: SelectionSpec) -> dict[str, Any]:
    """What a selection of eligible documents keeps. Shares are those of all that it keeps."""
    kept = selected.kept
    perplexity = exp((eligible.nll / eligible.n_tokens)[kept])
    everywhere = np.bincount(eligible.domains, minlength=len(eligible.domain_names))
    return {
        "id": spec.id,
        **spec.model_dump(),
        "documents": len(kept),
        "tokens": int(eligible.n_tokens[kept].sum()),
        "perplexity_min": float(perplexity.min()) if len(kept) else None,
        "perplexity_max": float(perplexity.max()) if len(kept) else None,
        "start": selected.start,
        "stop": selected.stop,
        "domains": domain_rows(eligible.domain_names, everywhere, *_counts(eligible, kept)),
    }


def _quantiles(key: np.ndarray) -> dict[str, float]:
    values = np.quantile(key, [q / 100 for q in QUANTILES], method="inverted_cdf")
    return {str(q): float(value) for q, value in zip(QUANTILES, exp(values), strict=True)}


def exp(values: np.ndarray) -> np.ndarray:
    """e to each value; infinite where float64 has no such number."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(values))


class Binned(NamedTuple):
    """Documents and tokens by ln(perplexity). int64 arrays of one length; bin i is from i to i + 1 times BIN."""

    bins: np.ndarray
    documents: np.ndarray
    tokens: np.ndarray


def binned(key: np.ndarray, tokens: np.ndarray) -> Binned:
    """Counts documents: key float64 [D], nll / n_tokens of each; tokens int64 [D]."""
    return _summed(np.floor(key / BIN).astype(np.int64), np.ones(len(key), dtype=np.int64), tokens)


def histogram(parts: Sequence[Binned]) -> dict[str, Any]:
    """The sum of some counts, at least one of them not empty. Edges are whole multiples of the bins' width."""
    joined = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    factor = max(1, -(-int(np.ptp(joined[0])) // _BINS_MAX))
    found = _summed(joined[0] // factor, joined[1], joined[2])
    first, width = int(found.bins[0]), BIN * factor
    size = int(found.bins[-1]) - first + 1
    counts = np.zeros((2, size), dtype=np.int64)
    counts[:, found.bins - first] = found.documents, found.tokens
    return {
        "of": "ln(perplexity), nats a token",
        "bin_width": width,
        "edges": [round((first + i) * width, 9) for i in range(size + 1)],
        "documents": counts[0].tolist(),
        "tokens": counts[1].tolist(),
    }


def _summed(bins: np.ndarray, documents: np.ndarray, tokens: np.ndarray) -> Binned:
    unique, place = np.unique(bins, return_inverse=True)
    sums = np.zeros((2, len(unique)), dtype=np.int64)
    np.add.at(sums[0], place, documents)
    np.add.at(sums[1], place, tokens)
    return Binned(unique, sums[0], sums[1])


def _lengths(key: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    """Documents by length and ln(perplexity): `documents[i][j]` have token_edges[i] <= tokens < token_edges[i + 1].

    The j-th column is ln(perplexity) from edges[j] to edges[j + 1]; the first and the last hold what lies beyond.
    """
    octave = np.frexp(tokens)[1] - 1  # floor(log2)
    first, size = int(octave.min()), int(octave.max()) - int(octave.min()) + 1
    low, high = np.quantile(key, [0.001, 0.999], method="inverted_cdf").tolist()
    width = max((high - low) / _LENGTH_ROWS, 1e-6)
    column = np.clip(np.floor((key - low) / width), 0, _LENGTH_ROWS - 1).astype(np.int64)
    cells = np.bincount((octave - first) * _LENGTH_ROWS + column, minlength=size * _LENGTH_ROWS)
    return {
        "token_edges": [2 ** (first + i) for i in range(size + 1)],
        "edges": [low + j * width for j in range(_LENGTH_ROWS + 1)],
        "documents": cells.reshape(size, _LENGTH_ROWS).tolist(),
    }


def _equal(key: np.ndarray) -> dict[str, int]:
    """How many documents share their exact score with another, and the most that share one."""
    starts = np.flatnonzero(np.diff(np.sort(key), prepend=-np.inf, append=np.inf))
    runs = np.diff(starts)
    return {"documents": int(runs[runs > 1].sum()), "largest": int(runs.max())}


def _medians(eligible: Eligible, key: np.ndarray) -> np.ndarray:
    """The median perplexity of each domain, float64 [domains]."""
    order = np.lexsort((key, eligible.domains))
    sizes = np.bincount(eligible.domains, minlength=len(eligible.domain_names))
    return exp(key[order[np.cumsum(sizes) - sizes + (sizes - 1) // 2]])


def _counts(eligible: Eligible, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Documents and tokens of each domain among some eligible documents, int64 [domains] each."""
    size = len(eligible.domain_names)
    domains = eligible.domains[kept]
    tokens = np.bincount(domains, weights=eligible.n_tokens[kept], minlength=size).astype(np.int64)
    return np.bincount(domains, minlength=size), tokens


def largest(everywhere: np.ndarray) -> np.ndarray:
    """Domains in the order of a report: the largest first. `everywhere` int64 [domains], documents of each."""
    return np.argsort(-everywhere, kind="stable")


def domain_rows(
    names: list[str | None],
    everywhere: np.ndarray,
    documents: np.ndarray,
    tokens: np.ndarray,
    medians: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Documents and tokens of each domain, the largest of the whole corpus first, and their shares.

    All arrays [domains]: int64 `everywhere`, documents of the whole corpus; float64 `medians`, of perplexity.
    """
    order = largest(everywhere)
    rows: list[dict[str, Any]] = []
    for i in order[:DOMAINS_MAX].tolist():
        rows.append({"domain": names[i], "documents": int(documents[i]), "tokens": int(tokens[i])})
        if medians is not None:
            rows[-1]["perplexity_median"] = float(medians[i])
    rest = order[DOMAINS_MAX:]
    if len(rest):
        sums = {"documents": int(documents[rest].sum()), "tokens": int(tokens[rest].sum())}
        rows.append({"domain": None, "others": len(rest), **sums})
    all_documents, all_tokens = max(1, int(documents.sum())), max(1, int(tokens.sum()))
    for row in rows:
        row["documents_share"] = row["documents"] / all_documents
        row["tokens_share"] = row["tokens"] / all_tokens
    return rows
