"""The public tables of scores and rejects, joined from the documents and scores files of the shards in plan order."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from pruner.corpus.plan import Plan
from pruner.corpus.shard import Shard
from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.errors import InputError
from pruner.select.further import Further
from pruner.select.perplexity import perplexity, score_key
from pruner.tables.documents import DocumentCounts
from pruner.tables.hashing_writer import HashingWriter, WrittenFile
from pruner.tables.part_file import read_metadata, read_part
from pruner.tables.records import Record
from pruner.tables.shard_scores import ShardCounts
from pruner.tables.storage import Storage
from pruner.tables.table_files import join_files
from pruner.tables.table_writer import TableWriter
from pruner.tables.values import PRIOR

SCORES_FILE, REJECTS_FILE = "scores.parquet", "rejects.parquet"
_PIECE_ROWS = 1 << 17  # written at a time

SCORES = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("n_tokens", pa.int64()),
        ("nll", pa.float64()),
        ("perplexity", pa.float64()),
        ("n_bytes", pa.int64()),
        ("surprisal_sq", pa.float64()),
        ("surprisal_max", pa.float64()),
        ("share_8", pa.float64()),
        *PRIOR,
        ("training", pa.bool_()),
        ("reject", pa.string()),
    ]
)
REJECTS = pa.schema([("file", pa.string()), ("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())])


@dataclass
class Joined:
    """What the joined files hold."""

    documents: int = 0
    tokens: int = 0
    rejects: int = 0
    training: int = 0
    eligible: int = 0  # documents that selections choose from
    domains: dict[str | None, None] = field(default_factory=dict)  # of these, in the order of their first ones
    missing_ids: int = 0  # of documents without a reject
    missing_domains: int = 0
    reasons: Counter[str] = field(default_factory=Counter)  # rejects by reason, without details
    scorers: dict[str, dict[str, Any]] = field(default_factory=dict)  # by their JSON
    further: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # the same of further ones by name
    lacking: Counter[str] = field(default_factory=Counter)  # documents that others select from, by further scorer
    shard_rows: list[int] = field(default_factory=list)

    def counts(self) -> "TablesRecord":
        """The same as a record."""
        lists = {"domains": list(self.domains), "scorers": list(self.scorers.values())}
        further = {name: list(scorers.values()) for name, scorers in self.further.items()}
        return TablesRecord(**vars(self) | lists | {"further": further})

    def add(self, more: "TablesRecord") -> None:
        """Adds what the files of the next shards hold."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(more, name))
        self.domains |= dict.fromkeys(more.domains)
        self.reasons.update(more.reasons)
        self.lacking.update(more.lacking)
        self.scorers |= {_encoded(scorer): scorer for scorer in more.scorers}
        for name, scorers in more.further.items():
            self.further.setdefault(name, {}).update({_encoded(scorer): scorer for scorer in scorers})
        self.shard_rows += more.shard_rows


class TablesRecord(Record):
    """What the tables of some shards hold, as stored beside them; fields as of Joined."""

    documents: int
    tokens: int
    rejects: int
    training: int
    eligible: int
    domains: list[str | None]
    missing_ids: int
    missing_domains: int
    reasons: dict[str, int]
    scorers: list[dict[str, Any]]
    further: dict[str, list[dict[str, Any]]]
    lacking: dict[str, int]
    shard_rows: list[int]


_SUMS = ("documents", "tokens", "rejects", "training", "eligible", "missing_ids", "missing_domains")


def write_tables(
    storage: Storage,
    folder: str,
    plan: Plan,
    documents_paths: Sequence[str],
    scores_paths: Sequence[str] | None,
    split: Split | None,
    shards: range,
    beat: Callable[[], None],
    further: Sequence[Further] = (),
) -> tuple[Joined, dict[str, WrittenFile]]:
    """Writes scores.parquet and rejects.parquet into `folder`, from the files of some shards in plan order.

    Without `scores_paths`, of a job without a reference, the columns of the reference are null. `further` are the
    sources of more columns. Calls `beat` for each written piece and each shard. Returns what the files hold, and the
    tables by name. Raises FileNotFoundError if a shard's file is missing.
    """
    joined = Joined()
    with ExitStack() as stack:
        outs = {
            name: HashingWriter(stack.enter_context(storage.create(f"{folder}/{name}")))
            for name in (SCORES_FILE, REJECTS_FILE)
        }
        with (
            TableWriter(outs[SCORES_FILE], scores_schema(further)) as scores,
            TableWriter(outs[REJECTS_FILE], REJECTS) as rejects,
        ):
            for table in _shard_tables(storage, plan, documents_paths, scores_paths, split, shards, joined, further):
                joined.shard_rows.append(len(table))
                for start in range(0, len(table), _PIECE_ROWS):
                    rows = table.slice(start, _PIECE_ROWS)
                    _write(rows, scores, rejects, joined)
                    values = [made.name for made in further if made.name not in SCORES.names]
                    joined.lacking.update({name: _lacking(rows, name) for name in values})
                    beat()
                beat()
    return joined, {name: out.written for name, out in outs.items()}


def join_tables(
    storage: Storage, folder: str, rows: int, parts: Sequence[str], beat: Callable[[], None]
) -> dict[str, WrittenFile]:
    """Joins the tables in the folders `parts`, one at least, into those of `folder`. Raises FileNotFoundError.

    The tables of scores have `rows` rows in all; of very many their table is a folder of parts.
    """
    written: dict[str, WrittenFile] = {}
    for name, size in ((SCORES_FILE, rows), (REJECTS_FILE, 0)):  # rejects are always one file
        written |= join_files(storage, folder, name, size, [f"{part}/{name}" for part in parts], beat)
    return written


def scores_schema(further: Sequence[Further]) -> pa.Schema:
    """The schema of the table of scores with more columns, which stand before `training`."""
    fields = [field for made in further for field in made.fields if field.name not in SCORES.names]
    at = SCORES.get_field_index("training")
    return pa.schema([*list(SCORES)[:at], *fields, *list(SCORES)[at:]])


def further_columns(schema: pa.Schema) -> list[Any]:
    """The fields of further scorers in the schema of a table of scores, or of a manifest."""
    return [field for field in schema if field.name not in (*SCORES.names, "percentile")]


def _lacking(rows: pa.Table, name: str) -> int:
    """How many documents that selections may choose from have no value of a scorer."""
    there = pc.and_not(pc.is_null(rows["reject"]), rows["training"])
    return pc.sum(pc.and_(there, pc.is_null(rows[name]))).as_py() or 0


def _write(rows: pa.Table, scores: TableWriter, rejects: TableWriter, joined: Joined) -> None:
    scores.add(rows)
    rejected = rows.filter(pc.is_valid(rows["reject"])).select(["file", "row", "id", "reject"])
    rejects.add(rejected.rename_columns(REJECTS.names))
    joined.documents += len(rows)
    joined.tokens += pc.sum(rows["n_tokens"]).as_py() or 0
    joined.rejects += len(rejected)
    joined.training += pc.sum(rows["training"]).as_py() or 0
    scored = rows.filter(pc.is_null(rows["reject"]))
    joined.missing_ids += scored["id"].null_count
    joined.missing_domains += scored["domain"].null_count
    eligible = scored.filter(pc.invert(scored["training"]))
    joined.eligible += len(eligible)
    joined.domains |= dict.fromkeys(pc.unique(eligible["domain"]).to_pylist())
    joined.reasons.update(reason.partition(":")[0] for reason in rejected["reject"].to_pylist())


def _shard_tables(
    storage: Storage,
    plan: Plan,
    documents_paths: Sequence[str],
    scores_paths: Sequence[str] | None,
    split: Split | None,
    shards: range,
    joined: Joined,
    further: Sequence[Further],
) -> Iterator[pa.Table]:
    """The rows of each shard, with row numbers of the file."""
    file, next_row = -1, 0
    schema = scores_schema(further)
    if shards.start:
        file, next_row = plan.shards[shards.start - 1].file, _rows_to(storage, plan, documents_paths, shards.start)
    for number in shards:
        shard, documents_path = plan.shards[number], documents_paths[number]
        documents, _ = read_part(storage, documents_path, DocumentCounts)
        columns: dict[str, Any] = {}
        if scores_paths is not None:
            scores, counts = read_part(storage, scores_paths[number], ShardCounts)
            _check_rows(documents_path, len(documents), scores_paths[number], len(scores))
            _note(joined.scorers, counts.scorer)
            columns = _of_reference(scores)
        for made in further:
            part = made.read(storage, made.paths[number])
            _check_rows(documents_path, len(documents), made.paths[number], len(part.columns[made.name]))
            _note(joined.further.setdefault(made.name, {}), part.scorer)
            columns |= part.columns
        # A shard does not know its first row in the file: it follows from the rows of the shards before.
        first_row = next_row if shard.file == file else 0
        file, next_row = shard.file, first_row + len(documents)
        columns |= _of_documents(plan, shard, first_row, documents, split)
        columns["reject"] = pc.coalesce(documents["reject"], *([columns["reject"]] if "reject" in columns else []))
        nothing = {field.name: pa.nulls(len(documents), field.type) for field in schema if field.name not in columns}
        yield pa.table([(columns | nothing)[name] for name in schema.names], schema=schema)


def _check_rows(documents_path: str, documents: int, path: str, rows: int) -> None:
    if documents != rows:
        raise InputError(
            f"{path}: has {rows:,} rows, but {documents_path} has {documents:,}; "
            "remove both files to score the shard again"
        )


def _note(scorers: dict[str, dict[str, Any]], scorer: dict[str, Any]) -> None:
    scorers[_encoded(scorer)] = scorer


def _rows_to(storage: Storage, plan: Plan, documents_paths: Sequence[str], stop: int) -> int:
    """The rows of the shards before shard `stop` that are of the same file as the last of them."""
    rows, number = 0, stop - 1
    while number >= 0 and plan.shards[number].file == plan.shards[stop - 1].file:
        known = plan.shards[number].rows
        rows += read_metadata(storage, documents_paths[number], DocumentCounts).documents if known is None else known
        number -= 1
    return rows


def _encoded(scorer: dict[str, Any]) -> str:
    return orjson.dumps(scorer, option=orjson.OPT_SORT_KEYS).decode()


def _of_documents(plan: Plan, shard: Shard, first_row: int, documents: pa.Table, split: Split | None) -> dict[str, Any]:
    training = np.zeros(len(documents), dtype=bool)
    if split is not None:
        places = documents["file"].to_numpy(), documents["row"].to_numpy()
        training = in_split(split, ShardRows.of(plan, shard.index), *places)
    return {
        "file": pa.array([file.url for file in plan.files_of(shard)]).take(documents["file"]),
        "row": pc.add(documents["row"], first_row),
        "training": pa.array(training),
        **{name: documents[name] for name in ("id", "domain", "n_bytes")},
    }


def _of_reference(scores: pa.Table) -> dict[str, Any]:
    nll, n_tokens = (scores[name].to_numpy().astype(np.float64) for name in ("nll", "n_tokens"))
    values = perplexity(score_key(nll, n_tokens))
    return {
        "n_tokens": scores["n_tokens"].cast(pa.int64()),
        "perplexity": pa.array(values, mask=np.isnan(values)),
        "share_8": pc.divide(scores["over_8"].cast(pa.float64()), scores["n_tokens"].cast(pa.float64())),
        **{name: scores[name] for name in ("nll", "surprisal_sq", "surprisal_max", "reject")},
    }
