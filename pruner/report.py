"""What a job's scores look like: counts, quantiles, a histogram, and what each selection does to the domains."""

from typing import Any

import numpy as np

from pruner.specs import SelectionSpec
from pruner.table import Eligible

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)  # percent
BIN = 0.05  # nats, of the histogram of ln(perplexity)
_BINS_MAX = 2_000  # beyond which bins are made wider, by whole factors
DOMAINS_MAX = 1_000  # that are named; the smaller ones are summed


def scores_report(eligible: Eligible, counts: dict[str, Any], reasons: dict[str, int]) -> dict[str, Any]:
    """The part of a report that no selection changes."""
    log_perplexity = eligible.nll / eligible.n_tokens
    return {
        "documents": counts["documents"],
        "tokens": counts["tokens"],
        "training": counts["training"],
        "rejects": {"documents": counts["rejects"], "reasons": reasons},
        "eligible": {"documents": len(eligible.nll), "tokens": int(eligible.n_tokens.sum())},
        "perplexity": {"quantiles": _quantiles(log_perplexity)},
        "histogram": _histogram(log_perplexity, eligible.n_tokens),
        "domains": _domain_counts(eligible, np.arange(len(eligible.nll))),
    }


def selection_report(eligible: Eligible, kept: np.ndarray, spec: SelectionSpec) -> dict[str, Any]:
    """What a selection keeps; kept int64, indices of eligible documents. Shares are those of all that it keeps."""
    perplexity = _exp((eligible.nll / eligible.n_tokens)[kept])
    return {
        "id": spec.id,
        **spec.model_dump(),
        "documents": len(kept),
        "tokens": int(eligible.n_tokens[kept].sum()),
        "perplexity_min": float(perplexity.min()) if len(kept) else None,
        "perplexity_max": float(perplexity.max()) if len(kept) else None,
        "domains": _domain_counts(eligible, kept),
    }


def _quantiles(log_perplexity: np.ndarray) -> dict[str, float]:
    values = np.quantile(log_perplexity, [q / 100 for q in QUANTILES], method="inverted_cdf")
    return {str(q): float(value) for q, value in zip(QUANTILES, _exp(values), strict=True)}


def _exp(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(values))


def _histogram(log_perplexity: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
    """Documents and tokens by ln(perplexity), in bins whose edges are whole multiples of their width."""
    low, high = float(log_perplexity.min()), float(log_perplexity.max())
    width = BIN * max(1, int(np.ceil((high - low) / BIN / _BINS_MAX)))
    bins = np.floor(log_perplexity / width).astype(np.int64)
    first = int(bins.min())
    size = int(bins.max()) - first + 1
    return {
        "of": "ln(perplexity), nats a token",
        "bin_width": width,
        "edges": [round((first + i) * width, 9) for i in range(size + 1)],
        "documents": np.bincount(bins - first, minlength=size).tolist(),
        "tokens": np.bincount(bins - first, weights=tokens, minlength=size).astype(np.int64).tolist(),
    }


def _domain_counts(eligible: Eligible, kept: np.ndarray) -> list[dict[str, Any]]:
    """Documents and tokens of each domain, the largest of the whole corpus first, and their shares."""
    size = len(eligible.domain_names)
    everywhere = np.bincount(eligible.domains, minlength=size)
    documents = np.bincount(eligible.domains[kept], minlength=size)
    tokens = np.bincount(eligible.domains[kept], weights=eligible.n_tokens[kept], minlength=size).astype(np.int64)
    order = np.argsort(-everywhere, kind="stable")
    named = [(eligible.domain_names[i], int(documents[i]), int(tokens[i])) for i in order[:DOMAINS_MAX]]
    rest = order[DOMAINS_MAX:]
    rows = [{"domain": name, "documents": docs, "tokens": toks} for name, docs, toks in named]
    if len(rest):
        others = {"domains": len(rest), "documents": int(documents[rest].sum()), "tokens": int(tokens[rest].sum())}
        rows.append({"domain": None, "others": others["domains"], **{k: others[k] for k in ("documents", "tokens")}})
    all_documents, all_tokens = max(1, int(documents.sum())), max(1, int(tokens.sum()))
    for row in rows:
        row["documents_share"] = row["documents"] / all_documents
        row["tokens_share"] = row["tokens"] / all_tokens
    return rows
