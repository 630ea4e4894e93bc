"""Documents by rank: their scores from the table of scores, and their texts, read from the corpus again."""

import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypedDict, cast

import numpy as np
from pydantic import BaseModel, Field

from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.corpus.plan import Plan
from pruner.corpus.sandbox import read_shard
from pruner.errors import InputError
from pruner.select.index import Index
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable

_TEXT_SECONDS = 5.0  # for each text, and twice that for all texts of one call
_READING = threading.BoundedSemaphore(4)  # texts that are read at the same time, each by a process with its own memory
_COLUMNS = ["file", "row", "id", "domain", "n_tokens", "nll", "perplexity", "n_bytes"]


class RankedDocument(TypedDict):
    """A document with its rank; `place` is its row of the table of scores."""

    rank: int
    percentile: float
    place: int
    file: str
    row: int
    id: str | None
    domain: str | None
    n_tokens: int | None
    nll: float | None
    perplexity: float | None
    n_bytes: int
    value: float | None


class Document(BaseModel):
    """A scored document. `text` is its beginning, or null where `text_error` says why it cannot be read."""

    rank: int = Field(description="Its place in the order that was asked for, from 0.")
    percentile: float
    file: str
    row: int
    id: str | None
    domain: str | None
    n_tokens: int | None = Field(description="Null in a job without a reference, as `nll` and `perplexity`.")
    nll: float | None
    perplexity: float | None
    n_bytes: int = Field(description="UTF-8 bytes of the whole text.")
    value: float | None = Field(description="Its value of the score whose order was asked for, else null.")
    text: str | None
    characters: int | None = Field(description="Of the whole text.")
    text_error: str | None


class Documents(BaseModel):
    """Documents from a rank on, of the `documents` that have ranks: all, or those of a domain."""

    documents: int
    data: list[Document]


@dataclass(frozen=True)
class DocumentReader:
    """Reads the documents of a scored corpus by rank. `scores` is the path of the table of scores in `storage`."""

    storage: Storage
    scores: str
    index: Index
    plan: Plan
    spec: CorpusSpec
    roots: Roots = UNRESTRICTED
    column: str | None = None  # the score whose values are read

    def read(self, rank: int, count: int, characters: int, domain: int | None = None) -> Documents:
        """Documents at ranks [rank, rank + count), of all or of a domain, and the beginnings of their texts.

        Texts that cannot be read within some seconds are left out. Raises InputError if no row names the domain.
        """
        deadline = time.monotonic() + 2 * _TEXT_SECONDS
        rows, ranked = documents_at(self.storage, self.scores, self.index, rank, rank + count, domain, self.column)
        data = []
        for row in rows:
            seconds = min(_TEXT_SECONDS, deadline - time.monotonic())
            text: str | None = None
            error: str | None = "there was no time left to read it: ask for fewer documents"
            if characters == 0:
                error = "no text was asked for"
            elif seconds > 0 and _READING.acquire(timeout=seconds):
                try:
                    text, error = read_text(self.plan, self.spec, self.index, row["place"], seconds, self.roots)
                finally:
                    _READING.release()
            beginning, length = (None, None) if text is None else (text[:characters], len(text))
            data.append(Document(**row, text=beginning, characters=length, text_error=error))
        return Documents(documents=ranked, data=data)


def documents_at(
    storage: Storage,
    scores_path: str,
    index: Index,
    start: int,
    stop: int,
    domain: int | None = None,
    column: str | None = None,
) -> tuple[list[RankedDocument], int]:
    """The documents at ranks [start, stop), with the values of a `column`, and the number of all ranked documents.

    With a `domain`, a row of a report's `domains`, ranks and percentiles are those among its documents; raises
    InputError if no row names it.
    """
    start = max(0, start)
    if domain is None:
        size = index.documents
        places = np.asarray(index.place[start:stop]).tolist()
    else:
        found, size = index.in_domain(domain, start, stop)
        places = found.tolist()
    rows = table_rows(storage, scores_path, places, [*_COLUMNS, *([column] if column else [])])
    documents = [
        cast(
            RankedDocument,
            {name: rows[place][name] for name in _COLUMNS}
            | {"rank": rank, "percentile": 100.0 * rank / size, "place": place}
            | {"value": rows[place][column] if column else None},
        )
        for rank, place in enumerate(places, start)
    ]
    return documents, size


def table_rows(storage: Storage, path: str, places: list[int], columns: list[str]) -> dict[int, dict[str, Any]]:
    """Columns of rows of the table of scores, by their number; reads only the row groups that hold them."""
    found: dict[int, dict[str, Any]] = {}
    table = _table(storage, path)
    groups = (np.searchsorted([group.first_row for group in table.groups], places, side="right") - 1).tolist()
    for number in sorted(set(groups)):
        inside = [place for place, of in zip(places, groups, strict=True) if of == number]
        group = table.groups[number]
        rows = table.read_group(group, list(dict.fromkeys(columns))).take([place - group.first_row for place in inside])
        found.update(zip(inside, rows.to_pylist(), strict=True))
    return found


_table = lru_cache(maxsize=4)(StoredTable)  # a table of scores never changes; the footers of 10^9 rows have 100 MB


class _OutOfTime(Exception):
    pass


def read_text(
    plan: Plan, spec: CorpusSpec, index: Index, place: int, seconds: float, roots: Roots = UNRESTRICTED
) -> tuple[str | None, str | None]:
    """The text of the document at a row of the table of scores; or None and the reason why it cannot be read.

    Reads the shard up to the document, for at most about `seconds`: it may lie deep in a compressed file.
    """
    shard = int(np.searchsorted(index.shards, place, side="right")) - 1
    row = place - int(index.shards[shard])
    deadline = time.monotonic() + seconds

    def check_time() -> None:
        if time.monotonic() > deadline:
            raise _OutOfTime

    try:
        batches = list(read_shard(plan, plan.shards[shard], spec, roots, check_time, only=row))
    except _OutOfTime:
        return None, f"it lies too deep in its file to be read within {seconds:g} s"
    except (InputError, OSError) as error:
        return None, str(error)
    if not batches:
        return None, "its file has fewer rows than when it was scored"
    return batches[0]["text"][0].as_py(), batches[0]["reject"][0].as_py()
