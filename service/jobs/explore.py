"""Questions about a job's scores that are answered at once: previews, documents by rank, a histogram that grows."""

import threading
import time
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pruner.corpus.train_split import in_split
from pruner.errors import InputError
from pruner.select.documents import documents_at, read_text
from pruner.select.histogram import BinCounts, count_bins, histogram
from pruner.select.index import Index, read_index
from pruner.select.perplexity import score_key
from pruner.spec import SelectionSpec
from pruner.tables.storage import Storage
from service.contract.schemas import Document, Documents, PartialHistogram, Preview, TrainSpec
from service.jobs.jobs import Jobs, not_there
from service.kinds import index, scores, selection
from service.kinds.job_files import JobFiles

_DOMAINS_INSIDE_MAX = 10_000  # more would take long to preview inside each
_TEXT_SECONDS = 5.0  # for each text, and twice that for all of a request
_NEW_SHARDS = 100  # that one request counts; the next ones go on
_SHARDS_MAX = 5_000  # of a job that are counted: enough for a first look, and fewer than are remembered
_READING = threading.BoundedSemaphore(4)  # texts that are read at the same time, each by a process with its own memory


def preview(jobs: Jobs, job_id: str, spec: SelectionSpec) -> Preview:
    """What a selection would keep. Raises UnknownJob, Conflict while the job is not scored, InputError."""
    files, ranks = _scored(jobs, job_id)
    if spec.within is not None and files.record.request.corpus.domain_field is None:
        raise InputError("a selection within 'domain' needs a job with corpus.domain_field")
    if spec.within is not None and len(ranks.domain_names) > _DOMAINS_INSIDE_MAX:
        made = selection.find(files, spec)
        if made is not None:
            return Preview.model_validate(
                made.flat().model_dump() | {"inside": [band.model_dump() for band in ranks.inside(spec)]}
            )
        raise InputError(
            f"within: the corpus has {len(ranks.domain_names):,} domains and a preview inside each has at most "
            f"{_DOMAINS_INSIDE_MAX:,}: make the selection to see it"
        )
    return Preview.model_validate(ranks.preview(spec).flat().model_dump())


def documents(jobs: Jobs, job_id: str, rank: int, count: int, characters: int, domain: int | None) -> Documents:
    """Documents at ranks [rank, rank + count), of all or of a domain, and the beginnings of their texts.

    Raises as `preview` does.
    """
    return read_documents(*_scored(jobs, job_id), rank, count, characters, domain)


def read_documents(
    files: JobFiles, ranks: Index, rank: int, count: int, characters: int, domain: int | None
) -> Documents:
    """The same, of a job whose index was read."""
    plan, storage, record = files.plan, files.workspace.storage, files.record
    deadline = time.monotonic() + 2 * _TEXT_SECONDS
    table = f"{index.folder(files)}/scores.parquet"
    rows, ranked = documents_at(storage, table, ranks, rank, rank + count, domain)
    data = []
    for row in rows:
        seconds = min(_TEXT_SECONDS, deadline - time.monotonic())
        text: str | None = None
        error: str | None = "there was no time left to read it: ask for fewer documents"
        if characters == 0:
            error = "no text was asked for"
        elif seconds > 0 and _READING.acquire(timeout=seconds):
            try:
                roots = record.access.roots
                text, error = read_text(plan, record.request.corpus, ranks, row["place"], seconds, roots)
            finally:
                _READING.release()
        about = {"text": text[:characters] if text is not None else None, "characters": len(text) if text else None}
        data.append(Document.model_validate(row | about | {"text_error": error}))
    return Documents(documents=ranked, data=data)


def growing_histogram(jobs: Jobs, job_id: str) -> PartialHistogram:
    """The histogram of the shards that are scored so far, without the documents that train the reference."""
    job, files = jobs.files(job_id)
    storage = files.workspace.storage
    parts: list[BinCounts] = []
    there: list[tuple[int, str]] = []
    if files.corpus is not None and files.model is not None:
        paths = scores.paths(files, files.model)
        names = set(storage.list(paths.folder))
        there = [(i, path) for i, path in enumerate(paths) if path.rpartition("/")[2] in names]
        before = _shard_counts.cache_info().misses
        for number, path in there[:_SHARDS_MAX]:
            parts.append(_shard_counts(storage, path, number, job.request.reference.train))
            if _shard_counts.cache_info().misses - before >= _NEW_SHARDS:
                break
    filled = [part for part in parts if len(part.bins)]
    return PartialHistogram(
        shards=len(parts),
        shards_done=len(there),
        shards_total=job.progress.shards_total,
        documents=sum(int(part.documents.sum()) for part in parts),
        tokens=sum(int(part.tokens.sum()) for part in parts),
        histogram=histogram(filled).model_dump() if filled else None,
    )


def _scored(jobs: Jobs, job_id: str) -> tuple[JobFiles, Index]:
    job, files = jobs.files(job_id)
    try:
        return files, _index(files.workspace.storage, index.folder(files))
    except FileNotFoundError:
        raise not_there(job.status, "scores") from None


@lru_cache(maxsize=16)
def _index(storage: Storage, folder: str) -> Index:
    """An index never changes; that of a workspace elsewhere is held in memory."""
    return read_index(storage, folder)


@lru_cache(maxsize=10_000)
def _shard_counts(storage: Storage, path: str, number: int, train: TrainSpec | None) -> BinCounts:
    """The counts of one score file, which never change."""
    with storage.open(path) as source:
        table = pq.read_table(source, columns=["n_tokens", "nll"])
    there: Any = np.asarray(table["nll"].is_valid())
    if train is not None:
        there = there & ~in_split(train.seed, train.fraction, number, 0, len(table))
    nll, tokens = (table[name].to_numpy()[there] for name in ("nll", "n_tokens"))
    return count_bins(score_key(nll, tokens), tokens.astype(np.int64))
