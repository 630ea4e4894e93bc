"""Questions about a job's scores that are answered at once: previews, documents by rank, a histogram that grows."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

from pruner.corpus.train_split import ShardRows
from pruner.errors import InputError
from pruner.select.documents import DocumentReader, Documents, table_rows
from pruner.select.histogram import Histogram, Trained
from pruner.select.index import Index
from pruner.select.index_files import read_index
from pruner.select.kept_bins import COUNTED_MAX, kept_by_key, kept_of_run
from pruner.select.order import by_score, rank_documents
from pruner.select.partial_histogram import PartialHistogram, partial_histogram
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection_record import PreviewReport
from pruner.select.write_index import read_summary
from pruner.spec import BY_TOKEN, Order, SelectionSpec, StageSpec
from pruner.tables.storage import Storage
from service.contract.scorers import score_names
from service.jobs.jobs import Conflict, Jobs, check_possible, not_there
from service.kinds import index, order, report, scores, selection
from service.kinds.documents import paths as documents_paths
from service.kinds.job_files import JobFiles

_DOMAINS_INSIDE_MAX = 10_000  # more would take long to preview inside each
RANKED_AT_ONCE = 1_000_000  # rows of a table of scores, that are ranked by any score when it is looked at: a second


def preview(jobs: Jobs, job_id: str, spec: SelectionSpec) -> PreviewReport:
    """What a selection would keep.

    Raises UnknownJob; Conflict while the job is not scored, or its documents are not ranked in the order; InputError.
    """
    files = jobs.files(job_id)[1]
    check_possible(files.record.request, spec)
    return preview_by(files, spec, lambda ranked: _scored(jobs, job_id, ranked)[1])


def preview_by(files: JobFiles, spec: SelectionSpec, ranked: Callable[[Order], Index]) -> PreviewReport:
    """A preview by the documents in the order that it needs.

    Raises what `ranked` raises, and InputError for a selection inside too many domains.
    """
    limits = _one_threshold(spec)
    if limits is not None:
        with suppress(Conflict, FileNotFoundError):  # of many documents the selection itself may be ranked
            return _preview_limits(files, ranked(Order("score", column=limits.score or "")), spec, limits)
    ranks = ranked(spec.order)
    if spec.within is not None and len(ranks.domain_names) > _DOMAINS_INSIDE_MAX:
        made = selection.find(files, spec)
        if made is not None:
            return PreviewReport(**dict(made.flat()), inside=ranks.inside(spec), ranked_documents=ranks.documents)
        raise InputError(
            f"within: the corpus has {len(ranks.domain_names):,} domains and a preview inside each has at most "
            f"{_DOMAINS_INSIDE_MAX:,}: make the selection to see it"
        )
    found = ranks.preview(spec).flat().model_copy(update={"ranked_documents": ranks.documents})
    if spec.score is not None:
        return _with_values(files, ranks, found, spec.score)
    return found if limits is not None else _with_bins(files, ranks, spec, found)


def _one_threshold(spec: SelectionSpec) -> StageSpec | None:
    """The stage of a selection that has thresholds on one score and nothing else."""
    stage = spec.stages[0] if spec.stages is not None and len(spec.stages) == 1 else None
    return stage if stage is not None and stage.criterion is None else None


def _preview_limits(files: JobFiles, ranks: Index, spec: SelectionSpec, limits: StageSpec) -> PreviewReport:
    """A preview of thresholds on a score, by the ranks of this score."""

    def value(rank: int) -> float:
        return _value(files.workspace.storage, _table(files), limits.score or "", int(ranks.place[rank]))

    all_ranks = range(ranks.documents)
    start = 0 if limits.at_least is None else bisect_left(all_ranks, limits.at_least, key=value)
    stop = ranks.documents if limits.at_most is None else bisect_right(all_ranks, limits.at_most, key=value)
    found = ranks.preview(spec, (start, max(start, stop))).flat()
    found = found.model_copy(update={"ranked_documents": ranks.documents})
    return _with_values(files, ranks, found, limits.score or "")


def _with_values(files: JobFiles, ranks: Index, found: PreviewReport, column: str) -> PreviewReport:
    """With the lowest and the highest value that is kept, and what is kept of the score's bins; `ranks` are by it."""
    if found.start is None or found.stop is None or found.start == found.stop:
        return found
    storage = files.workspace.storage
    ends = (int(ranks.place[rank]) for rank in (found.start, found.stop - 1))
    low, high = (_value(storage, _table(files), column, place) for place in ends)
    added: dict[str, object] = {"value_min": low, "value_max": high}
    with suppress(FileNotFoundError):  # while a selection is being made there is no report
        bins = _distributions(storage, report.path(files)).get(column)
        if bins is not None:
            kept = kept_of_run(*bins, ranks.below, found.start, found.stop)
            added |= {"bin_documents": kept.documents, "bin_tokens": kept.tokens}
    return found.model_copy(update=added)


def _with_bins(files: JobFiles, ranks: Index, spec: SelectionSpec, found: PreviewReport) -> PreviewReport:
    """With what is kept of the bins of ln(perplexity), unless counting takes long."""
    bins = _histogram(files.workspace.storage, index.folder(files))
    run = (0, ranks.kept or 0) if found.start is None or found.stop is None else (found.start, found.stop)
    if not bins.documents:
        return found
    if spec.order == BY_TOKEN and spec.within is None:
        kept = kept_of_run(bins.documents, bins.tokens, ranks.below, *run)
    elif found.documents <= COUNTED_MAX:
        kept = kept_by_key(ranks, spec, run, bins)
    else:
        return found
    return found.model_copy(update={"bin_documents": kept.documents, "bin_tokens": kept.tokens})


@lru_cache(maxsize=16)  # an index never changes
def _histogram(storage: Storage, index_folder: str) -> Histogram:
    """The histogram of ln(perplexity) of an index."""
    return read_summary(storage, index_folder).histogram


@lru_cache(maxsize=16)  # a report never changes
def _distributions(storage: Storage, path: str) -> dict[str, tuple[list[int], list[int]]]:
    """Documents and tokens by bin of each score of a report; empty for one of an earlier version."""
    found = storage.read_json(path).get("scores", [])
    return {score["name"]: (score["bin_documents"], score["bin_tokens"]) for score in found}


@lru_cache(maxsize=4096)  # a table of scores never changes, and a threshold is found by its halves
def _value(storage: Storage, path: str, column: str, place: int) -> float:
    """The value of a score in a row of the table of scores."""
    return float(table_rows(storage, path, [place], [column])[place][column])


def _table(files: JobFiles) -> str:
    return f"{index.folder(files)}/{SCORES_FILE}"


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
    files, ranks = _scored(jobs, job_id, ranked)
    return document_reader(files, ranks, ranked.column or None).read(rank, count, characters, domain)


def document_reader(files: JobFiles, ranks: Index, column: str | None = None) -> DocumentReader:
    """A reader of a scored job's documents by rank, with their values of a score if `column` names one."""
    record, storage = files.record, files.workspace.storage
    corpus, roots = record.request.corpus, record.access.roots
    return DocumentReader(storage, _table(files), ranks, files.plan, corpus, roots, column)


def growing_histogram(jobs: Jobs, job_id: str) -> PartialHistogram:
    """The histogram of what is scored so far, without the documents that train the reference."""
    job, files = jobs.files(job_id)
    paths = scores.paths(files, files.model) if files.corpus is not None and files.model is not None else []
    split, parts, under_way = files.train_split, documents_paths(files), jobs.bins_under_way(job_id)

    def trained(shard: int) -> Trained | None:
        return None if split is None else Trained(split, ShardRows.of(files.plan, shard), parts[shard])

    return partial_histogram(files.workspace.storage, paths, job.progress.shards_total, trained, under_way)


def _scored(jobs: Jobs, job_id: str, ranked: Order) -> tuple[JobFiles, Index]:
    """A job and its documents in an order."""
    job, files = jobs.files(job_id)
    known = score_names(files.scorers, has_reference=files.record.request.reference is not None)
    if ranked.by == "score" and ranked.column not in known:
        raise InputError(f"score {ranked.column!r} is none of the job's: it has {', '.join(known)}")
    try:
        return files, ranks_in(files, ranked)
    except FileNotFoundError:
        if ranked == BY_TOKEN or index.find(files) is None:
            raise not_there(job.status, "scores") from None
    named = {"byte": "NLL per byte", "hash": f"the hash of seed {ranked.seed}", "score": f"the score {ranked.column}"}
    by = named.get(ranked.by, "several scores")
    raise Conflict(f"the documents are not ranked by {by} yet: make a selection in this order, then look again")


def ranks_in(files: JobFiles, ranked: Order) -> Index:
    """The documents of a scored job in an order that is stored; by a score, if they are few, in any case.

    Raises FileNotFoundError, and InputError if no document has a value of the score.
    """
    storage = files.workspace.storage
    try:
        return _index(storage, order.folder(files, ranked))
    except FileNotFoundError:
        found = index.find(files)
        if ranked.by != "score" or found is None or found.counts.documents > RANKED_AT_ONCE:
            raise
        return _ranked(storage, index.folder(files), ranked.column)


@lru_cache(maxsize=8)
def _ranked(storage: Storage, index_folder: str, column: str) -> Index:
    return rank_documents(storage, index_folder, by_score(storage, index_folder, column), lambda: None)


_index = lru_cache(maxsize=16)(read_index)  # an index never changes; that of a workspace elsewhere is copied
