"""Orders made of several scores: a difference of two references, a sum of ranks, and what stages leave."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise

import numpy as np
import pyarrow as pa

from pruner.ranks.bands import band
from pruner.ranks.rank_key import Keys, RankKey, floats
from pruner.ranks.sort_keys import ordered_bits
from pruner.select.build_index import build_index
from pruner.select.index import Index
from pruner.select.index_files import PERCENTILE, read_domain_names, read_shard_rows, write_array, write_arrays
from pruner.select.kept import kept_by_rank, kept_inside, ranks_inside
from pruner.select.score_table import SCORES_FILE
from pruner.spec import BY_TOKEN, Order, Rule, StageSpec
from pruner.tables.parquet_parts import TablePart
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable


class Scores:
    """The table of scores of an index, and indexes of it in other orders. Methods raise FileNotFoundError."""

    def __init__(
        self, storage: Storage, index_folder: str, rank_key: Callable[[Order], RankKey], beat: Callable[[], None]
    ) -> None:
        """`rank_key` gives that of an order by one score, by NLL or by a hash."""
        self.storage, self.rank_key, self.beat = storage, rank_key, beat
        self.table = StoredTable(storage, f"{index_folder}/{SCORES_FILE}")
        self.names = read_domain_names(storage, index_folder)
        self.shard_rows = np.diff(read_shard_rows(storage, index_folder)).tolist()
        self._path = f"{index_folder}/{SCORES_FILE}"

    def ranked(self, key: RankKey) -> Index:
        """The documents in the order of a key."""
        return build_index(self.storage, self._path, key, self.names, self.shard_rows, self.beat)


def difference_key(first: tuple[str, str], second: tuple[str, str]) -> RankKey:
    """By nll1 / n1 - nll2 / n2 in float64. Each reference is given by its columns of NLL and of tokens or bytes."""
    columns = (*first, *second)

    def of(rows: pa.Table, _at: TablePart) -> Keys:
        nll1, n1, nll2, n2 = (floats(rows[name]) for name in columns)
        with np.errstate(divide="ignore", invalid="ignore"):
            key = nll1 / n1 - nll2 / n2
        missing = ~np.isfinite(key)
        key[missing] = 0.0
        return Keys(ordered_bits(key), missing, "documents without both scores")

    return RankKey(f"{first[0]} - {second[0]}", tuple(dict.fromkeys(columns)), of)


def rank_sum_key(scores: Scores, terms: Sequence[tuple[str, int]], *, within: bool) -> RankKey:
    """By the sum of weight times rank among the documents that have all scores, inside domains with `within`.

    Reads the table once for each score. Sums are int64.
    """
    keys = [_score_key(scores, name) for name, _ in terms]
    ranks: list[np.ndarray] = []
    for key in keys:
        index = scores.ranked(_only(key, keys))
        inside = np.asarray(index.inside_rank), np.asarray(index.inside_bounds)
        ranks.append(ranks_inside(*inside)[1] if within else _ranks(index))

    def of(rows: pa.Table, at: TablePart) -> Keys:
        part = slice(at.first_row, at.first_row + at.rows)
        weighted = [weight * rank[part] for (_, weight), rank in zip(terms, ranks, strict=True)]
        total = np.asarray(np.sum(weighted, axis=0, dtype=np.int64))
        return Keys(ordered_bits(total), np.asarray(ranks[0][part] < 0), "")

    return RankKey("sum of ranks", (), of)


def write_stages(scores: Scores, folder: str, stages: Sequence[StageSpec]) -> int:
    """Writes the index of the documents that have all scores, those that the stages leave first, into `folder`.

    Returns their number. Beside the arrays of an index stands PERCENTILE: the percentile of each document that is left,
    in the last stage that ranks, NaN if none does. Needs 10 bytes of memory a document.
    """
    keys = [_score_key(scores, stage.score) for stage in stages if stage.score is not None]
    if any(stage.criterion is not None and stage.score is None for stage in stages if stage.criterion != "random"):
        keys.append(scores.rank_key(BY_TOKEN))
    kept = np.ones(scores.table.rows, dtype=bool)
    percentile = np.full(scores.table.rows, np.nan)
    for stage in stages:
        rule = stage.rule
        if rule is None:
            kept &= _inside_limits(scores, stage)
            continue
        index = scores.ranked(_only(scores.rank_key(stage.order), keys, kept))
        kept, percentile = _chosen(index, rule)
    index = scores.ranked(_first(kept, keys))
    kept &= _ranks(index) >= 0  # not those that trained the reference
    percentile[~kept] = np.nan
    write_array(scores.storage, folder, PERCENTILE, percentile, scores.beat)
    write_arrays(scores.storage, folder, replace(index, kept=int(kept.sum())), scores.beat)
    return index.documents


def _score_key(scores: Scores, name: str) -> RankKey:
    return scores.rank_key(Order("score", column=name))


def _only(key: RankKey, needed: Sequence[RankKey], kept: np.ndarray | None = None) -> RankKey:
    """The same order of the documents that have all needed keys too, and are kept: bool [rows of the table]."""
    others = [other for other in needed if other is not key]
    columns = tuple(dict.fromkeys([*key.columns, *(name for other in others for name in other.columns)]))

    def of(rows: pa.Table, at: TablePart) -> Keys:
        found = key.of(rows, at)
        missing = [found.missing, *(other.of(rows, at).missing for other in others)]
        if kept is not None:
            missing.append(~kept[at.first_row : at.first_row + at.rows])
        return found._replace(missing=reduce(np.logical_or, missing))

    return key._replace(columns=columns, of=of)


def _first(kept: np.ndarray, needed: Sequence[RankKey]) -> RankKey:
    """Kept documents before the others, both in the order of the table."""

    def of(_rows: pa.Table, at: TablePart) -> Keys:
        left_out = ~kept[at.first_row : at.first_row + at.rows]
        return Keys(left_out.astype(np.uint64), np.zeros(at.rows, dtype=bool), "")

    return _only(RankKey("stages", (), of), needed)


def _inside_limits(scores: Scores, stage: StageSpec) -> np.ndarray:
    """Which rows of the table have a score inside the limits of a stage, bool [rows]."""
    found = []
    for part in range(len(scores.table.parts)):
        values = floats(scores.table.read(part, [stage.score or ""])[stage.score])
        inside = ~np.isnan(values)
        if stage.at_least is not None:
            inside &= values >= stage.at_least
        if stage.at_most is not None:
            inside &= values <= stage.at_most
        found.append(inside)
        scores.beat()
    return np.concatenate(found)


def _chosen(index: Index, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of the table a rule keeps, bool [rows], and percentiles, float64 [rows], valid where kept."""
    if rule.within is None:
        return kept_by_rank(_ranks(index), band(index.below, rule), index.documents)
    bounds = np.asarray(index.inside_bounds)
    bands = [band(index.inside_below[first : last + 1], rule) for first, last in pairwise(bounds.tolist())]
    return kept_inside(np.asarray(index.inside_rank), bounds, bands)


def _ranks(index: Index) -> np.ndarray:
    """The rank of each row, int64 [rows]; -1 for rows that are not ranked."""
    return np.asarray(index.rank)
