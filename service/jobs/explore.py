"""What can be asked of a job's scores at once: previews of selections, documents by rank, a histogram that grows."""

import threading
import time
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pruner.corpus.plan import read_plan
from pruner.corpus.train_split import in_split
from pruner.errors import InputError
from pruner.report import Binned, binned, histogram
from pruner.select.documents import documents_at, read_text
from pruner.select.rank_index import Ranks, read_ranks
from pruner.spec import SelectionSpec
from pruner.tables.storage import Storage
from service.contract.schemas import Document, Documents, PartialHistogram, Preview, TrainSpec
from service.jobs.jobs import Jobs, UnknownJob, not_there
from service.jobs.steps import known_score_paths
from service.store.workspace import JobRecord, Workspace

_DOMAINS_INSIDE_MAX = 10_000  # more would take long to preview inside each
_TEXT_SECONDS = 5.0  # for each text, and twice that for all of a request
_NEW_SHARDS = 100  # that one request counts; the next ones go on
_SHARDS_MAX = 5_000  # of a job that are counted: enough for a first look, and fewer than are remembered
_READING = threading.BoundedSemaphore(4)  # texts that are read at the same time, each by a process with its own memory


def preview(jobs: Jobs, job_id: str, spec: SelectionSpec) -> Preview:
    """What a selection would keep. Raises UnknownJob, Conflict while the job is not scored, InputError."""
    job = jobs.get(job_id)
    if spec.within is not None and job.request.corpus.domain_field is None:
        raise InputError("a selection within 'domain' needs a job with corpus.domain_field")
    ranks = _scored(jobs, job_id)
    if spec.within is not None and len(ranks.domain_names) > _DOMAINS_INSIDE_MAX:
        made = jobs.workspace.selection(job_id, spec.id)
        if made is not None:
            return Preview.model_validate(made | {"inside": ranks.inside(spec)})
        raise InputError(
            f"within: the corpus has {len(ranks.domain_names):,} domains and a preview inside each has at most "
            f"{_DOMAINS_INSIDE_MAX:,}: make the selection to see it"
        )
    return Preview.model_validate(ranks.preview(spec))


def documents(jobs: Jobs, job_id: str, rank: int, count: int, characters: int, domain: int | None) -> Documents:
    """Documents at ranks [rank, rank + count), of all or of a domain, and the beginnings of their texts.

    Raises as `preview` does.
    """
    ranks = _scored(jobs, job_id)
    record = jobs.workspace.job(job_id)
    if record is None:
        raise UnknownJob(job_id)
    return read_documents(jobs.workspace, record, ranks, rank, count, characters, domain)


def read_documents(
    workspace: Workspace, record: JobRecord, ranks: Ranks, rank: int, count: int, characters: int, domain: int | None
) -> Documents:
    """The same of a job whose ranks are at hand."""
    plan = read_plan(workspace.storage, workspace.path(record.id, "plan.parquet"))
    deadline = time.monotonic() + 2 * _TEXT_SECONDS
    scores = workspace.path(record.id, "scores.parquet")
    rows, ranked = documents_at(workspace.storage, scores, ranks, rank, rank + count, domain)
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
    job = jobs.get(job_id)
    workspace = jobs.workspace
    record = workspace.job(job_id)
    parts: list[Binned] = []
    there: list[tuple[int, str]] = []
    if record is not None:
        there = _scored_shards(workspace, record, known_score_paths(workspace, record))
        before = _shard_counts.cache_info().misses
        for index, path in there[:_SHARDS_MAX]:
            parts.append(_shard_counts(workspace.storage, path, index, job.request.reference.train))
            if _shard_counts.cache_info().misses - before >= _NEW_SHARDS:
                break
    filled = [part for part in parts if len(part.bins)]
    return PartialHistogram(
        shards=len(parts),
        shards_done=len(there),
        shards_total=job.progress.shards_total,
        documents=sum(int(part.documents.sum()) for part in parts),
        tokens=sum(int(part.tokens.sum()) for part in parts),
        histogram=histogram(filled) if filled else None,
    )


def _scored(jobs: Jobs, job_id: str) -> Ranks:
    try:
        record = jobs.workspace.job(job_id)  # one of the same id may come after one that was removed
        return _ranks(jobs.workspace, job_id, record and record.created_at)
    except FileNotFoundError:
        raise not_there(jobs.get(job_id).status, "scores") from None


@lru_cache(maxsize=16)
def _ranks(workspace: Workspace, job_id: str, _made: datetime | None) -> Ranks:
    """A job's counts by rank, which never change; those of a workspace elsewhere are held in memory."""
    return read_ranks(workspace.storage, workspace.folder(job_id))


def _scored_shards(workspace: Workspace, record: JobRecord, paths: list[str]) -> list[tuple[int, str]]:
    """Index and path of the score files that are there."""
    folders = {path.rpartition("/")[0] for path in paths}
    names = {f"{folder}/{name}" for folder in folders for name in workspace.storage.list(folder)}
    return [(index, path) for index, path in enumerate(paths) if path in names]


@lru_cache(maxsize=10_000)
def _shard_counts(storage: Storage, path: str, index: int, train: TrainSpec | None) -> Binned:
    """The counts of one score file, which never change."""
    with storage.open(path) as source:
        table = pq.read_table(source, columns=["n_tokens", "nll", "reject"])
    there: Any = np.asarray(table["reject"].is_null())
    if train is not None:
        there = there & ~in_split(train.seed, train.fraction, index, 0, len(table))
    nll, tokens = (table[name].to_numpy()[there] for name in ("nll", "n_tokens"))
    return binned(nll / tokens, tokens.astype(np.int64))
