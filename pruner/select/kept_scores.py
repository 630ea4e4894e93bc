"""What selections keep of each score's distribution, and what each two of them have in common, counted by rows."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

from pruner.select.manifest import Chosen
from pruner.select.score_columns import ScoreColumn, needed, read_values
from pruner.select.selection_record import SelectionRecord
from pruner.tables.stored_table import StoredTable

SELECTIONS_MAX = 20  # that are compared: the first ones
_ROWS = 1 << 16  # counted at a time


class ScoreReport(ScoreColumn):
    """A score and its distribution: documents and tokens by bin, and the documents by bin that each selection keeps."""

    lacking: int  # documents that selections choose from without a value
    bin_documents: list[int]
    bin_tokens: list[int]
    bin_kept: dict[str, list[int]]  # by the id of a selection


class Overlap(BaseModel):
    """What two selections have in common, as counts and as shares of the smaller one and of all documents.

    A share is None where it would be one of nothing.
    """

    selections: tuple[str, str]
    documents: int
    documents_of_smaller: float | None
    documents_of_all: float | None
    tokens: int
    tokens_of_smaller: float | None
    tokens_of_all: float | None


class KeptScores(NamedTuple):
    """The distributions of all scores, and the overlaps of all pairs of selections."""

    scores: list[ScoreReport]
    overlaps: list[Overlap]


class _Counts:
    """Sums over rows: documents and tokens by bin of each score, kept documents by bin, and common rows."""

    def __init__(self, scores: Sequence[ScoreColumn], selections: int) -> None:
        self._edges = [np.array(score.edges) for score in scores]
        self.documents = [np.zeros(_bins(edges), dtype=np.int64) for edges in self._edges]
        self.tokens = [np.zeros(_bins(edges), dtype=np.int64) for edges in self._edges]
        self.kept = [np.zeros((selections, _bins(edges)), dtype=np.int64) for edges in self._edges]
        self.common = np.zeros((2, selections, selections), dtype=np.int64)  # documents, tokens

    def add(self, values: np.ndarray, tokens: np.ndarray, kept: np.ndarray) -> None:
        """Adds rows: values float64 [R, S], tokens int64 [R], kept bool [selections, R]."""
        for at, edges in enumerate(self._edges):
            there = ~np.isnan(values[:, at])
            if not len(edges) or not there.any():
                continue
            size = _bins(edges)
            found = np.clip(np.searchsorted(edges, values[there, at], side="right") - 1, 0, size - 1)
            self.documents[at] += np.bincount(found, minlength=size)
            np.add.at(self.tokens[at], found, tokens[there])
            for number, chosen in enumerate(kept):
                self.kept[at][number] += np.bincount(found[chosen[there]], minlength=size)
        of = kept.astype(np.float64)  # sums of products are exact up to 2^53
        self.common[0] += (of @ of.T).astype(np.int64)
        self.common[1] += ((of * tokens) @ of.T).astype(np.int64)


def count_kept(
    table: StoredTable,
    scores: Sequence[ScoreColumn],
    selections: Sequence[tuple[SelectionRecord, Chosen]],
    eligible: tuple[int, int],
    beat: Callable[[], None],
) -> KeptScores:
    """Counts the rows of a table of scores, a part at a time, for some selections, SELECTIONS_MAX at most.

    Each selection comes with the function that says which rows it keeps. `eligible`: documents and tokens that
    selections choose from. Calls `beat` for each piece. Raises FileNotFoundError.
    """
    names = [score.name for score in scores]
    counts = _Counts(scores, len(selections))
    for part, at in enumerate(table.parts):
        rows = table.read(part, [*needed(names), "n_tokens"])
        for start in range(0, at.rows, _ROWS):
            piece = rows.slice(start, _ROWS)
            first = at.first_row + start
            kept = np.zeros((len(selections), len(piece)), dtype=bool)
            for number, (_, chosen) in enumerate(selections):
                kept[number] = chosen.rows(first, first + len(piece))[0]
            tokens = np.nan_to_num(piece["n_tokens"].to_numpy().astype(np.float64)).astype(np.int64)
            counts.add(read_values(piece, names), tokens, kept)
            beat()
    records = [record for record, _ in selections]
    return KeptScores(
        [
            ScoreReport(
                **dict(score),
                lacking=eligible[0] - score.documents,
                bin_documents=counts.documents[at].tolist(),
                bin_tokens=counts.tokens[at].tolist(),
                bin_kept={record.spec.id: counts.kept[at][number].tolist() for number, record in enumerate(records)},
            )
            for at, score in enumerate(scores)
        ],
        [
            _overlap(records[i], records[j], counts.common[:, i, j].tolist(), eligible)
            for i, j in combinations(range(len(records)), 2)
        ],
    )


def _overlap(
    first: SelectionRecord, second: SelectionRecord, common: Sequence[int], eligible: tuple[int, int]
) -> Overlap:
    documents, tokens = common
    return Overlap(
        selections=(first.spec.id, second.spec.id),
        documents=documents,
        documents_of_smaller=_share(documents, min(first.documents, second.documents)),
        documents_of_all=_share(documents, eligible[0]),
        tokens=tokens,
        tokens_of_smaller=_share(tokens, min(first.tokens, second.tokens)),
        tokens_of_all=_share(tokens, eligible[1]),
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _bins(edges: np.ndarray) -> int:
    return max(0, len(edges) - 1)
