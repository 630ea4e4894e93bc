"""Rows of a report's domain table: documents and tokens of each domain, and their shares."""

from typing import Any

import numpy as np
from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

DOMAINS_MAX = 1_000  # that are named; the smaller ones are summed


class DomainRow(BaseModel):
    """A domain, or the sum of the `others` domains that are too small to be named."""

    domain: str | None
    documents: int
    tokens: int
    documents_share: float
    tokens_share: float
    others: int | None = None  # the number of summed domains; absent in JSON for a named domain
    perplexity_median: float | None = None  # absent in JSON if unknown

    @model_serializer(mode="wrap")
    def _leave_out_missing(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        optional = ("others", "perplexity_median")
        return {name: value for name, value in fields.items() if value is not None or name not in optional}


def by_size(everywhere: np.ndarray) -> np.ndarray:
    """Domains in the order of a report, the largest first. `everywhere` int64 [domains]: documents of each."""
    return np.argsort(-everywhere, kind="stable")


def domain_rows(
    names: list[str | None],
    order: np.ndarray,
    documents: np.ndarray,
    tokens: np.ndarray,
    medians: np.ndarray | None = None,
    columns: np.ndarray | None = None,
) -> list[DomainRow]:
    """Documents and tokens of each domain, in a report's order, and their shares.

    order int64 [domains] is that of `by_size`. documents and tokens int64 [domains] are those that are counted; with
    `columns`, int [domains], they have another length, and `columns` says where each domain that is named has its own
    number. medians float64 [domains] are of perplexity.
    """
    all_documents, all_tokens = max(1, int(documents.sum())), max(1, int(tokens.sum()))

    def row(
        domain: str | None, counted: int, of_tokens: int, others: int | None = None, median: float | None = None
    ) -> DomainRow:
        shares = counted / all_documents, of_tokens / all_tokens
        return DomainRow(
            domain=domain,
            documents=counted,
            tokens=of_tokens,
            documents_share=shares[0],
            tokens_share=shares[1],
            others=others,
            perplexity_median=median,
        )

    named, rest = order[:DOMAINS_MAX], order[DOMAINS_MAX:]
    of_named = [None] * len(named) if medians is None else medians[named].tolist()
    at = named if columns is None else columns[named]
    rows = [
        row(names[code], counted, of_tokens, median=median)
        for code, counted, of_tokens, median in zip(
            named.tolist(), documents[at].tolist(), tokens[at].tolist(), of_named, strict=True
        )
    ]
    if len(rest):
        others = [int(counted.sum() - counted[at].sum()) for counted in (documents, tokens)]
        rows.append(row(None, others[0], others[1], len(rest)))
    return rows
