"""The histogram of ln(perplexity) of what is scored so far: whole shards, and parts of those that are being scored."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from pydantic import BaseModel

from pruner.select.histogram import BinCounts, Histogram, Trained, count_shard, histogram
from pruner.tables.storage import Storage

_NEW_SHARDS = 100  # that one call counts; the next ones go on
_SHARDS_MAX = 5_000  # of a corpus that are counted: enough for a first look, and fewer than are remembered


class PartialHistogram(BaseModel):
    """The histogram of ln(perplexity) of some documents: those of `shards`, of `shards_done` in all, and what workers
    have scored of further ones.
    """

    shards: int
    shards_done: int
    shards_total: int
    documents: int
    tokens: int
    histogram: Histogram | None


def partial_histogram(
    storage: Storage,
    paths: Sequence[str],
    shards_total: int,
    trained: Callable[[int], Trained | None],
    under_way: Mapping[int, Mapping[int, tuple[int, int]]],
) -> PartialHistogram:
    """Counts the score files that are there, without the documents of the train split. Each call counts some more.

    `paths` are the score files of all shards in their order; [] while they cannot be named. `trained` gives what trains
    the reference by the number of a shard. `under_way`: documents and tokens by bin of shards that are being scored, by
    number.
    """
    missing = set(storage.missing(paths))
    there = [(number, path) for number, path in enumerate(paths) if number not in missing]
    parts: list[BinCounts] = []
    before = _shard_counts.cache_info().misses
    for number, path in there[:_SHARDS_MAX]:
        parts.append(_shard_counts(storage, path, trained(number)))
        if _shard_counts.cache_info().misses - before >= _NEW_SHARDS:
            break
    shards = len(parts)
    for number, bins in under_way.items():
        if number in missing:
            counts = np.array([(at, *counted) for at, counted in bins.items()], dtype=np.int64).reshape(-1, 3)
            parts.append(BinCounts(*counts.T))
    filled = [part for part in parts if len(part.bins)]
    return PartialHistogram(
        shards=shards,
        shards_done=len(there),
        shards_total=shards_total,
        documents=sum(int(part.documents.sum()) for part in parts),
        tokens=sum(int(part.tokens.sum()) for part in parts),
        histogram=histogram(filled) if filled else None,
    )


_shard_counts = lru_cache(maxsize=10_000)(count_shard)  # score files never change
