"""What selections keep of each score's distribution, and what each two of them have in common, counted by rows."""

import os
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel

from pruner.ranks.parts import Workers
from pruner.select.manifest import Chosen
from pruner.select.score_columns import ScoreColumn, needed, read_values
from pruner.select.selection_record import SelectionRecord
from pruner.tables.stored_table import StoredTable

SELECTIONS_MAX = 20  # that are compared: the first ones
_ROWS = 1 << 16  # counted at a time
_THREADS_MAX = 4  # each needs some 100 MB
_MASK_BITS = 8  # selections whose rows are counted together
_BITS = (np.arange(1 << _MASK_BITS)[:, np.newaxis] >> np.arange(_MASK_BITS)) & 1  # int64 [masks, selections]


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

    def __init__(self, edges: Sequence[np.ndarray], selections: int) -> None:
        """`edges` are those of the bins of each score."""
        self._edges = edges
        self.documents = [np.zeros(_bins(each), dtype=np.int64) for each in edges]
        self.tokens = [np.zeros(_bins(each), dtype=np.int64) for each in edges]
        self.kept = [np.zeros((selections, _bins(each)), dtype=np.int64) for each in edges]
        self.common = np.zeros((2, selections, selections), dtype=np.int64)  # documents, tokens

    def add(self, values: np.ndarray, tokens: np.ndarray, kept: np.ndarray) -> None:
        """Adds rows: values float64 [R, S], tokens int64 [R], kept bool [selections, R]."""
        # Rows that the same of some selections keep are counted together: a bit for each selection.
        masks = np.packbits(kept, axis=0, bitorder="little").astype(np.int64)
        for at, edges in enumerate(self._edges):
            size = _bins(edges)
            if not size:
                continue
            column = np.ascontiguousarray(values[:, at])
            found = _bin(column, edges)
            documents = np.bincount(found, minlength=size + 1)[:size]
            self.documents[at] += documents
            # Sums of floats are exact up to 2^53.
            self.tokens[at] += np.bincount(found, tokens, minlength=size + 1)[:size].astype(np.int64)
            found <<= _MASK_BITS
            for group, mask in enumerate(masks):
                of_masks = np.bincount(found | mask, minlength=(size + 1) << _MASK_BITS).reshape(size + 1, -1)[:size]
                some = self.kept[at][group * _MASK_BITS : (group + 1) * _MASK_BITS]
                some += (of_masks @ _BITS[:, : len(some)]).T
        of = kept.astype(np.float64)
        self.common[0] += (of @ of.T).astype(np.int64)
        self.common[1] += ((of * tokens) @ of.T).astype(np.int64)

    def merge(self, more: "_Counts") -> None:
        """Adds the sums over other rows."""
        for mine, others in ((self.documents, more.documents), (self.tokens, more.tokens), (self.kept, more.kept)):
            for sums, added in zip(mine, others, strict=True):
                sums += added
        self.common += more.common


def count_kept(
    table: StoredTable,
    scores: Sequence[ScoreColumn],
    selections: Sequence[tuple[SelectionRecord, Chosen]],
    eligible: tuple[int, int],
    beat: Callable[[], None],
) -> KeptScores:
    """Counts the rows of a table of scores, on all cores, for some selections, SELECTIONS_MAX at most.

    Each selection comes with the function that says which rows it keeps; several threads call it. `eligible`: documents
    and tokens that selections choose from. Calls `beat` for each part of the table. Raises FileNotFoundError.
    """
    names = [score.name for score in scores]
    edges = [np.array(score.edges) for score in scores]

    def counted(part: int) -> _Counts:
        some, at = _Counts(edges, len(selections)), table.parts[part]
        rows = table.read(part, [*needed(names), "n_tokens"])
        for start in range(0, at.rows, _ROWS):
            piece = rows.slice(start, _ROWS)
            first = at.first_row + start
            kept = np.zeros((len(selections), len(piece)), dtype=bool)
            for number, (_, chosen) in enumerate(selections):
                kept[number] = chosen.rows(first, first + len(piece))[0]
            tokens = np.nan_to_num(piece["n_tokens"].to_numpy().astype(np.float64)).astype(np.int64)
            some.add(read_values(piece, names), tokens, kept)
        return some

    counts, workers = _Counts(edges, len(selections)), Workers(min(len(os.sched_getaffinity(0)), _THREADS_MAX))
    for some in workers.run(counted, len(table.parts)):
        counts.merge(some)
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


def _bin(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The bin of each value, int64 [R]; for NaN, the number of bins. The first and the last bin hold all beyond."""
    found = np.zeros(len(values), dtype=np.uint8)
    for edge in edges[1:-1]:  # a few dozen: faster than a binary search for each value
        found += (values >= edge).view(np.uint8)
    found[np.isnan(values)] = _bins(edges)
    return found.astype(np.int64)


def _bins(edges: np.ndarray) -> int:
    return max(0, len(edges) - 1)
