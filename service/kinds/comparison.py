"""Kind `comparison`: distributions and rank correlations of a job's scores, whatever is selected, one part."""

from collections.abc import Iterator

import numpy as np

from pruner.select.domains import by_size
from pruner.select.index_files import read_array, read_domain_names
from pruner.select.score_columns import Correlations, ScoreColumn, measure_scores
from pruner.select.score_table import SCORES_FILE
from pruner.select.write_index import check_eligible
from pruner.tables.records import Record
from pruner.tables.stored_table import StoredTable
from service.contract.scorers import score_names
from service.kinds import index
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.workspace import digest

VERSION = 1
_DOMAINS_MAX = 30  # the largest ones, in which scores are compared
_SILENCE_SECONDS = 120.0  # between two signs of life: a part of a table with many scores takes some seconds


class ComparisonRecord(Record):
    """`comparison/<key>/comparison.json`."""

    scores: list[ScoreColumn]
    correlations: Correlations


def path(job: JobFiles) -> str:
    """The file of the comparison. Raises as `index.folder` does."""
    return f"comparison/{digest('comparison', VERSION, index.folder(job), _names(job))}/comparison.json"


def nodes(job: JobFiles) -> Iterator[Node]:
    """The comparison of the scores of a job that has selections."""
    if job.named and job.selections:
        yield Node("comparison", "light", "selecting", [path(job)], needs=("index",))


def run(task: Task) -> Counts:
    """Compares the scores. Raises InputError where there is nothing to select from, InputsGone."""
    job, found = task.job, index.find(task.job)
    if found is None:
        raise InputsGone("the index")
    folder = index.folder(job)
    check_eligible(task.storage, folder, found.counts)
    try:
        with task.beat.allow(_SILENCE_SECONDS):
            table = StoredTable(task.storage, f"{folder}/{SCORES_FILE}")
            all_domains = read_domain_names(task.storage, folder)
            sizes = np.diff(read_array(task.storage, folder, "inside_bounds"))
            names = [name for name in _names(job) if name in table.schema.names]  # an old table may lack some
            domains = [all_domains[code] for code in by_size(sizes)[:_DOMAINS_MAX].tolist()]
            measured = measure_scores(table, names, domains, task.beat)
    except FileNotFoundError as error:
        raise InputsGone(str(error)) from None
    record = ComparisonRecord(scores=measured.scores, correlations=measured.correlations)
    job.workspace.records.write(task.path, record)
    return Counts(fresh=True)


def find(job: JobFiles) -> ComparisonRecord | None:
    """The comparison of a job's scores, or None while it is not made."""
    return job.workspace.records.read(ComparisonRecord, path(job))  # read once, and too large to be kept


def _names(job: JobFiles) -> list[str]:
    return score_names(job.scorers, has_reference=job.record.request.reference is not None)
