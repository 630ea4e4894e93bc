"""Writes the index of a job's scores: the public tables, the arrays by rank, and the summary."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.parquet as pq
from pydantic import BaseModel

from pruner.corpus.plan import Plan
from pruner.corpus.train_split import Split
from pruner.errors import InputError
from pruner.ranks.rank_key import mean_key, no_key
from pruner.select import summary as summaries
from pruner.select.build_index import build_index
from pruner.select.further import Further
from pruner.select.index import Index
from pruner.select.index_files import write_arrays
from pruner.select.score_table import (
    REJECTS_FILE,
    SCORES_FILE,
    Joined,
    TablesRecord,
    join_tables,
    write_tables,
)
from pruner.select.summary import Summary
from pruner.spec import CorpusSpec
from pruner.tables.documents import DocumentCounts
from pruner.tables.hashing_writer import WrittenFile
from pruner.tables.part_file import read_metadata
from pruner.tables.records import Record, read_record, write_record
from pruner.tables.storage import Storage
from pruner.tables.table_files import is_folder

FILES_FILE, SUMMARY_FILE, TABLES_FILE = "files.json", "summary.json", "tables.json"


class IndexCounts(BaseModel):
    """What an index holds: counts of documents and tokens, and what the scorers of the shards say of themselves."""

    documents: int
    tokens: int
    rejects: int
    training: int  # documents of the train split, rejects included
    eligible: int  # documents that selections choose from
    scorers: list[dict[str, Any]]  # each different one once
    further: dict[str, list[dict[str, Any]]] = {}  # the same of further scorers, by name


class FilesRecord(Record):
    """The files of the tables of an index by their paths in its folder, as stored in files.json."""

    files: dict[str, WrittenFile]


def write_index(
    storage: Storage,
    folder: str,
    plan: Plan,
    spec: CorpusSpec,
    documents_paths: Sequence[str],
    scores_paths: Sequence[str] | None,
    split: Split | None,
    beat: Callable[[], None],
    further: Sequence[Further] = (),
) -> IndexCounts:
    """Writes an index into `folder` from the documents and scores files of the shards, given in plan order.

    Writes scores.parquet (of very many documents a folder of parts), rejects.parquet, files.json, the arrays in ranks/,
    and last summary.json: an index that has it is complete. Calls `beat` for each shard, row group and array. Raises
    FileNotFoundError if a shard's file is missing, InputError if the corpus is empty. With no document to select from,
    there are only the tables and files.json.
    """
    paths, shards = (documents_paths, scores_paths), range(len(plan.shards))
    if is_folder(_documents(storage, plan, documents_paths)):
        part = f"{folder}/parts/0"
        write_index_part(storage, part, plan, *paths, split, shards, beat, further)
        counts = join_index(storage, folder, [part], spec, beat)
        storage.remove_tree(part)
        return counts
    joined, files = write_tables(storage, folder, plan, *paths, split, shards, beat, further)
    return _complete(storage, folder, spec, joined, files, beat)


def _documents(storage: Storage, plan: Plan, documents_paths: Sequence[str]) -> int:
    """The number of documents of a corpus."""
    if plan.documents is not None:
        return plan.documents
    return sum(read_metadata(storage, path, DocumentCounts).documents for path in documents_paths)


def write_index_part(
    storage: Storage,
    folder: str,
    plan: Plan,
    documents_paths: Sequence[str],
    scores_paths: Sequence[str] | None,
    split: Split | None,
    shards: range,
    beat: Callable[[], None],
    further: Sequence[Further] = (),
) -> None:
    """Writes the tables of some shards into `folder`, and last tables.json. Raises as `write_index` does."""
    joined, _ = write_tables(storage, folder, plan, documents_paths, scores_paths, split, shards, beat, further)
    write_record(storage, f"{folder}/{TABLES_FILE}", joined.counts())


def join_index(
    storage: Storage, folder: str, parts: Sequence[str], spec: CorpusSpec, beat: Callable[[], None]
) -> IndexCounts:
    """Writes an index as `write_index` does, from parts in the order of their shards: folders with tables."""
    joined = Joined()
    for part in parts:
        joined.add(read_record(storage, f"{part}/{TABLES_FILE}", TablesRecord))
        beat()
    files = join_tables(storage, folder, joined.documents, parts, beat)
    return _complete(storage, folder, spec, joined, files, beat)


def _complete(
    storage: Storage,
    folder: str,
    spec: CorpusSpec,
    joined: Joined,
    files: dict[str, WrittenFile],
    beat: Callable[[], None],
) -> IndexCounts:
    if not joined.documents:
        raise InputError("the corpus is empty: its files hold no documents; check corpus.paths")
    write_record(storage, f"{folder}/{FILES_FILE}", FilesRecord(files=files))
    if joined.eligible:
        table, key = f"{folder}/{SCORES_FILE}", mean_key("n_tokens") if joined.scorers else no_key()
        index = build_index(storage, table, key, joined.domains, joined.shard_rows, beat)
        write_arrays(storage, folder, index, beat)
        write_record(storage, f"{folder}/{SUMMARY_FILE}", _summary(index, joined, spec, beat))
    return IndexCounts(
        documents=joined.documents,
        tokens=joined.tokens,
        rejects=joined.rejects,
        training=joined.training,
        eligible=joined.eligible,
        scorers=[joined.scorers[text] for text in sorted(joined.scorers)],
        further={name: [found[text] for text in sorted(found)] for name, found in joined.further.items()},
    )


def read_summary(storage: Storage, folder: str) -> Summary:
    """The summary of the index in `folder`. Raises FileNotFoundError, and InputError for another format version."""
    return read_record(storage, f"{folder}/{SUMMARY_FILE}", Summary)


def read_files(storage: Storage, folder: str) -> FilesRecord:
    """Hash and size of the tables of the index in `folder`. Raises as `read_summary` does."""
    return read_record(storage, f"{folder}/{FILES_FILE}", FilesRecord)


def _summary(index: Index, joined: Joined, spec: CorpusSpec, beat: Callable[[], None]) -> Summary:
    """The summary; of a job without a reference its parts about perplexity and tokens are empty."""
    missing_ids = joined.missing_ids if spec.id_field is not None else 0
    missing_domains = joined.missing_domains if spec.domain_field is not None else 0
    missing = (("id", spec.id_field, missing_ids), ("domain", spec.domain_field, missing_domains))
    about = summaries.NO_PERPLEXITY
    if joined.scorers:  # else there is no reference
        about = summaries.of_perplexity(index, joined.scorers.values(), beat)
    return Summary(
        documents=joined.documents,
        tokens=joined.tokens,
        training=joined.training,
        rejects=summaries.RejectCounts(documents=joined.rejects, reasons=dict(joined.reasons.most_common())),
        eligible=summaries.Eligible(documents=index.documents, tokens=int(index.below[-1])),
        **dict(about),
        domains=summaries.domain_table(index),
        missing_ids=missing_ids,
        missing_domains=missing_domains,
        lacking=dict(joined.lacking),
        warnings=tuple(
            f"{count:,} of {joined.documents:,} documents have no {name} (corpus.{name}_field is {field!r})"
            for name, field, count in missing
            if count
        ),
    )


def check_eligible(storage: Storage, folder: str, counts: IndexCounts) -> None:
    """Raises InputError if the index in `folder` has no document to select from: why, and what to do."""
    if counts.eligible:
        return
    if counts.rejects < counts.documents:
        raise InputError("every document with a score trains the reference: choose a smaller reference.train.fraction")
    reasons: Counter[str] = Counter()
    with storage.open(f"{folder}/{REJECTS_FILE}") as source:
        for batch in pq.ParquetFile(source).iter_batches(columns=["reason"]):
            reasons.update(batch["reason"].to_pylist())
    common = ", ".join(f"{times:,} times: {reason}" for reason, times in reasons.most_common(3))
    raise InputError(
        f"no document of {counts.documents:,} has a score ({common}); check corpus.text_field and the files, "
        "and see the table of rejects"
    )
