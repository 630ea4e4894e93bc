"""The histogram of ln(perplexity) of the shards that are scored so far."""

from collections.abc import Sequence
from functools import lru_cache

from pydantic import BaseModel

from pruner.corpus.train_split import Split
from pruner.select.histogram import BinCounts, Histogram, count_shard, histogram
from pruner.tables.storage import Storage

_NEW_SHARDS = 100  # that one call counts; the next ones go on
_SHARDS_MAX = 5_000  # of a corpus that are counted: enough for a first look, and fewer than are remembered


class PartialHistogram(BaseModel):
    """The histogram of ln(perplexity) of some shards. `shards` of `shards_done` have been counted."""

    shards: int
    shards_done: int
    shards_total: int
    documents: int
    tokens: int
    histogram: Histogram | None


def partial_histogram(
    storage: Storage, paths: Sequence[str], shards_total: int, split: Split | None
) -> PartialHistogram:
    """Counts the score files that are there, without the documents of the train split. Each call counts some more.

    `paths` are the score files of all shards in their order; [] while they cannot be named.
    """
    missing = set(storage.missing(paths))
    there = [(number, path) for number, path in enumerate(paths) if number not in missing]
    parts: list[BinCounts] = []
    before = _shard_counts.cache_info().misses
    for number, path in there[:_SHARDS_MAX]:
        parts.append(_shard_counts(storage, path, number, split))
        if _shard_counts.cache_info().misses - before >= _NEW_SHARDS:
            break
    filled = [part for part in parts if len(part.bins)]
    return PartialHistogram(
        shards=len(parts),
        shards_done=len(there),
        shards_total=shards_total,
        documents=sum(int(part.documents.sum()) for part in parts),
        tokens=sum(int(part.tokens.sum()) for part in parts),
        histogram=histogram(filled) if filled else None,
    )


_shard_counts = lru_cache(maxsize=10_000)(count_shard)  # score files never change
