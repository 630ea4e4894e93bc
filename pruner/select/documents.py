"""Documents by their rank: who they are, how they were scored, and what they say, read from the corpus again."""

import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import Plan
from pruner.corpus.sandbox import read_shard
from pruner.errors import InputError
from pruner.select.rank_index import Ranks
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage

_COLUMNS = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity"]


def documents_at(
    storage: Storage, scores_path: str, ranks: Ranks, start: int, stop: int, domain: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """The documents at ranks [start, stop), and how many have ranks.

    Each has the columns of a manifest, `rank` and its `place` in the table. With a `domain`, a row of a report's
    `domains`, ranks and percentiles are those among its documents; raises InputError if no row names it.
    """
    start = max(0, start)
    if domain is None:
        size = ranks.documents
        places = ranks.place[start:stop].tolist()
    else:
        at, size = ranks.in_domain(domain, start, stop)
        places = ranks.place[at].tolist()
    rows = _table_rows(storage, scores_path, places)
    found = [
        {"rank": rank, "percentile": 100.0 * rank / size, "place": place, **rows[place]}
        for rank, place in enumerate(places, start)
    ]
    return found, size


def _table_rows(storage: Storage, path: str, places: list[int]) -> dict[int, dict[str, Any]]:
    """Rows of the score table, by their place in it; reads only the row groups that hold them."""
    found: dict[int, dict[str, Any]] = {}
    with storage.open(path) as source:
        table = pq.ParquetFile(source)
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, places, side="right").tolist()
        for group in sorted(set(groups)):
            inside = [place for place, of in zip(places, groups, strict=True) if of == group]
            first = int(ends[group]) - sizes[group]
            rows = table.read_row_group(group, columns=_COLUMNS).take([place - first for place in inside])
            found.update(zip(inside, rows.to_pylist(), strict=True))
    return found


class _TooDeep(Exception):
    pass


def read_text(
    plan: Plan, spec: CorpusSpec, ranks: Ranks, place: int, seconds: float, roots: Roots = UNRESTRICTED
) -> tuple[str | None, str | None]:
    """The text of the document at a place of the score table, or None and the reason why it cannot be shown.

    Reads its shard up to it, for at most about so many seconds: a document may lie deep in a compressed file.
    """
    index = int(np.searchsorted(ranks.shards, place, side="right")) - 1
    row = place - int(ranks.shards[index])
    deadline = time.monotonic() + seconds

    def waiting() -> None:
        if time.monotonic() > deadline:
            raise _TooDeep

    try:
        found = list(read_shard(plan, plan.shards[index], spec, roots, waiting, only=row))
    except _TooDeep:
        return None, f"it lies too deep in its file to be read within {seconds:g} s"
    except (InputError, OSError) as error:
        return None, str(error)
    if not found:
        return None, "its file has fewer rows than when it was scored"
    return found[0].texts[0], found[0].rejects[0]
