"""Kind `order`: the documents of an index by rank in another order than by NLL per token, one part for each order.

An order is by one score, by several, or that of the documents that stages leave.
"""

from collections.abc import Iterator

from pruner.ranks.rank_key import RankKey, mean_key
from pruner.select.composite import Scores, difference_key, rank_sum_key, write_stages
from pruner.select.order import by_byte, by_hash, by_score, write_order
from pruner.select.write_index import check_eligible
from pruner.spec import BY_TOKEN, Order
from pruner.tables.records import Record
from service.contract.scorers import PERPLEXITY
from service.kinds import index
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.workspace import digest

VERSION = 3
_SILENCE_SECONDS = 120.0  # between two signs of life: sorting 10^8 documents takes some seconds a step


class OrderRecord(Record):
    """`order/<key>/order.json`: written when the arrays beside it are there."""

    name: str
    documents: int


def folder(job: JobFiles, order: Order) -> str:
    """Where the arrays of an order lie: those of the order by token are the index's. Raises as `index.folder` does."""
    if order == BY_TOKEN:
        return index.folder(job)
    columns = [_columns(job, order)] if order.by == "difference" else []
    return f"order/{digest('order', VERSION, index.folder(job), order.fields, *columns)}"


def needs(order: Order) -> tuple[str, ...]:
    """The names of the nodes that a selection of this order needs."""
    return ("index",) if order == BY_TOKEN else ("index", _node_name(order))


def nodes(job: JobFiles) -> Iterator[Node]:
    """The other orders that a job's selections need."""
    if job.named:
        for order in _others(job):
            path = f"{folder(job, order)}/order.json"
            yield Node(_node_name(order), "light", "selecting", [path], needs=("index",))


def run(task: Task) -> Counts:
    """Ranks the documents. Raises InputError where there is nothing to select from, InputsGone."""
    job, found = task.job, index.find(task.job)
    order = next((order for order in _others(job) if _node_name(order) == task.node.name), None)
    if order is None or found is None:
        raise InputsGone(task.node.name)
    check_eligible(task.storage, index.folder(job), found.counts)
    folders = index.folder(job), folder(job, order)
    with task.beat.allow(_SILENCE_SECONDS):
        documents = _write(task, *folders, order)
    job.workspace.records.write(task.path, OrderRecord(name=order.name, documents=documents))
    return Counts(fresh=True)


def _write(task: Task, index_folder: str, folder: str, order: Order) -> int:
    """Writes an order; returns the number of its documents."""
    job, storage, beat = task.job, task.storage, task.beat

    def by_one(order: Order) -> RankKey:
        if order == BY_TOKEN:
            return mean_key("n_tokens")
        if order.by == "score":
            return by_score(storage, index_folder, order.column)
        return by_byte() if order.by == "byte" else by_hash(job.plan, order.seed)

    if order.by == "stages":
        return write_stages(Scores(storage, index_folder, by_one, beat), folder, order.stages)
    if order.by == "rank_sum":
        key = rank_sum_key(Scores(storage, index_folder, by_one, beat), order.terms, within=order.within)
    elif order.by == "difference":
        key = difference_key(*_columns(job, order))
    else:
        key = by_one(order)
    return write_order(storage, index_folder, folder, key, beat)


def _columns(job: JobFiles, difference: Order) -> list[tuple[str, str]]:
    """The columns of NLL and size of two references: tokens if both have one tokenizer, else bytes."""
    names = [name for name, _ in difference.terms]
    one, other = (job.model if name == PERPLEXITY else job.scorer_model(name) for name in names)
    same = one is not None and other is not None and one.cuts_as(other)
    of = ["" if name == PERPLEXITY else f"{name}_" for name in names]
    return [(f"{name}nll", f"{name}n_tokens" if same else "n_bytes") for name in of]


def _others(job: JobFiles) -> list[Order]:
    return list(dict.fromkeys(spec.order for spec in job.needed_selections if spec.order != BY_TOKEN))


def _node_name(order: Order) -> str:
    return f"order/{order.name}"
