"""Questions about a job's scores that are answered at once: previews, documents by rank, a histogram that grows."""

from functools import lru_cache

from pruner.errors import InputError
from pruner.select.documents import DocumentReader, Documents
from pruner.select.index import Index, read_index
from pruner.select.partial_histogram import PartialHistogram, partial_histogram
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection_record import PreviewReport
from pruner.spec import BY_TOKEN, Order, SelectionSpec
from service.jobs.jobs import Conflict, Jobs, check_scores, not_there
from service.kinds import index, order, scores, selection
from service.kinds.job_files import JobFiles

_DOMAINS_INSIDE_MAX = 10_000  # more would take long to preview inside each


def preview(jobs: Jobs, job_id: str, spec: SelectionSpec) -> PreviewReport:
    """What a selection would keep.

    Raises UnknownJob; Conflict while the job is not scored, or its documents are not ranked in the order; InputError.
    """
    check_scores(jobs.files(job_id)[1].record.request, spec)
    files, ranks = _scored(jobs, job_id, spec.order)
    if spec.in_domains and files.record.request.corpus.domain_field is None:
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


def made(jobs: Jobs, job_id: str, selection_id: str) -> SelectionSpec:
    """A selection that a job was asked for. Raises UnknownJob, and InputError for an unknown one."""
    for spec in jobs.files(job_id)[1].selections:
        if spec.id == selection_id:
            return spec
    raise InputError(f"selection: job {job_id} has no selection {selection_id!r}")


def documents(
    jobs: Jobs, job_id: str, rank: int, count: int, characters: int, domain: int | None, ranked: Order = BY_TOKEN
) -> Documents:
    """Documents at ranks [rank, rank + count) of an order, of all or of a domain, and the beginnings of their texts.

    Raises as `preview` does.
    """
    return document_reader(*_scored(jobs, job_id, ranked)).read(rank, count, characters, domain)


def document_reader(files: JobFiles, ranks: Index) -> DocumentReader:
    """A reader of a scored job's documents by rank."""
    record, table = files.record, f"{index.folder(files)}/{SCORES_FILE}"
    return DocumentReader(files.workspace.storage, table, ranks, files.plan, record.request.corpus, record.access.roots)


def growing_histogram(jobs: Jobs, job_id: str) -> PartialHistogram:
    """The histogram of the shards that are scored so far, without the documents that train the reference."""
    job, files = jobs.files(job_id)
    paths = scores.paths(files, files.model) if files.corpus is not None and files.model is not None else []
    return partial_histogram(files.workspace.storage, paths, job.progress.shards_total, index.train_split(files))


def _scored(jobs: Jobs, job_id: str, ranked: Order) -> tuple[JobFiles, Index]:
    job, files = jobs.files(job_id)
    try:
        return files, _index(files.workspace.storage, order.folder(files, ranked))
    except FileNotFoundError:
        if ranked == BY_TOKEN or index.find(files) is None:
            raise not_there(job.status, "scores") from None
    named = {"byte": "NLL per byte", "hash": f"the hash of seed {ranked.seed}", "score": f"the score {ranked.column}"}
    by = named.get(ranked.by, "several scores")
    raise Conflict(f"the documents are not ranked by {by} yet: make a selection in this order, then look again")


_index = lru_cache(maxsize=16)(read_index)  # an index never changes; that of a workspace elsewhere is copied
