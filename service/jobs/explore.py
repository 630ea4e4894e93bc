"""Questions about a job's scores that are answered at once: previews, documents by rank, a histogram that grows."""

from functools import lru_cache

from pruner.errors import InputError
from pruner.select.documents import DocumentReader, Documents
from pruner.select.histogram import BinCounts, count_shard, histogram
from pruner.select.index import Index, read_index
from pruner.select.selection_record import PreviewReport
from pruner.spec import SelectionSpec
from pruner.tables.storage import Storage
from service.contract.schemas import PartialHistogram
from service.jobs.jobs import Jobs, not_there
from service.kinds import index, scores, selection
from service.kinds.job_files import JobFiles

_DOMAINS_INSIDE_MAX = 10_000  # more would take long to preview inside each
_NEW_SHARDS = 100  # that one request counts; the next ones go on
_SHARDS_MAX = 5_000  # of a job that are counted: enough for a first look, and fewer than are remembered


def preview(jobs: Jobs, job_id: str, spec: SelectionSpec) -> PreviewReport:
    """What a selection would keep. Raises UnknownJob, Conflict while the job is not scored, InputError."""
    files, ranks = _scored(jobs, job_id)
    if spec.within is not None and files.record.request.corpus.domain_field is None:
        raise InputError("a selection within 'domain' needs a job with corpus.domain_field")
    if spec.within is not None and len(ranks.domain_names) > _DOMAINS_INSIDE_MAX:
        made = selection.find(files, spec)
        if made is not None:
            return PreviewReport(**dict(made.flat()), inside=ranks.inside(spec))
        raise InputError(
            f"within: the corpus has {len(ranks.domain_names):,} domains and a preview inside each has at most "
            f"{_DOMAINS_INSIDE_MAX:,}: make the selection to see it"
        )
    return ranks.preview(spec).flat()


def documents(jobs: Jobs, job_id: str, rank: int, count: int, characters: int, domain: int | None) -> Documents:
    """Documents at ranks [rank, rank + count), of all or of a domain, and the beginnings of their texts.

    Raises as `preview` does.
    """
    return document_reader(*_scored(jobs, job_id)).read(rank, count, characters, domain)


def document_reader(files: JobFiles, ranks: Index) -> DocumentReader:
    """A reader of a scored job's documents by rank."""
    record, table = files.record, f"{index.folder(files)}/scores.parquet"
    return DocumentReader(files.workspace.storage, table, ranks, files.plan, record.request.corpus, record.access.roots)


def growing_histogram(jobs: Jobs, job_id: str) -> PartialHistogram:
    """The histogram of the shards that are scored so far, without the documents that train the reference."""
    job, files = jobs.files(job_id)
    storage = files.workspace.storage
    parts: list[BinCounts] = []
    there: list[tuple[int, str]] = []
    if files.corpus is not None and files.model is not None:
        paths = scores.paths(files, files.model)
        missing = set(storage.missing(paths))
        there = [(number, path) for number, path in enumerate(paths) if number not in missing]
        split, before = index.train_split(files), _shard_counts.cache_info().misses
        for number, path in there[:_SHARDS_MAX]:
            parts.append(_shard_counts(storage, path, number, split))
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


_shard_counts = lru_cache(maxsize=10_000)(count_shard)  # score files never change
