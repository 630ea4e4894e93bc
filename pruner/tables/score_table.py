"""The table of a job's scores: what the shards' score files say, joined in plan order, and the rejects apart."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pruner.corpus.plan import Plan
from pruner.corpus.train_split import in_split
from pruner.errors import InputError
from pruner.tables.hashing_writer import HashingWriter
from pruner.tables.storage import Storage

ROWS_A_GROUP = 1 << 17

SCORES = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("domain", pa.string()),
        ("n_tokens", pa.int64()),
        ("nll", pa.float64()),
        ("perplexity", pa.float64()),
        ("training", pa.bool_()),
        ("reject", pa.string()),
    ]
)
REJECTS = pa.schema([("file", pa.string()), ("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())])


class Split(NamedTuple):
    """The share of documents that trained the reference."""

    seed: int
    fraction: float


def write_scores(
    storage: Storage, folder: str, plan: Plan, score_paths: list[str], split: Split | None
) -> dict[str, Any]:
    """Writes scores.parquet, rejects.parquet and rejects.jsonl into a folder, from a score file for each shard.

    Returns the counts `documents`, `tokens`, `rejects`, `training`, `eligible`, `files`: sha256 and size of each file,
    and `shard_rows`: the rows of each shard. Raises InputError, with nothing written, if there are no documents.
    """
    counts: Counter[str] = Counter()
    shard_rows: list[int] = []
    with ExitStack() as stack:
        names = ("scores.parquet", "rejects.parquet", "rejects.jsonl")
        outs = {name: HashingWriter(stack.enter_context(storage.create(f"{folder}/{name}"))) for name in names}
        with (
            pq.ParquetWriter(outs["scores.parquet"], SCORES, compression="zstd") as scores,
            pq.ParquetWriter(outs["rejects.parquet"], REJECTS, compression="zstd") as rejects,
        ):
            for table in _joined(storage, plan, score_paths, split):
                write_rows(scores, table)
                shard_rows.append(len(table))
                bad = table.filter(pc.is_valid(table["reject"]))
                bad = bad.select(["file", "row", "id", "reject"]).rename_columns(REJECTS.names)
                write_rows(rejects, bad)
                outs["rejects.jsonl"].write(json_lines(bad))
                training = pc.sum(table["training"]).as_py() or 0
                both = pc.sum(pc.and_(table["training"], pc.is_valid(table["reject"]))).as_py() or 0
                counts["documents"] += len(table)
                counts["rejects"] += len(bad)
                counts["training"] += training
                counts["eligible"] += len(table) - len(bad) - training + both
                counts["tokens"] += pc.sum(table["n_tokens"]).as_py() or 0
        if not counts["documents"]:
            raise InputError("the corpus is empty: its files hold no documents")
    names_of_counts = ("documents", "tokens", "rejects", "training", "eligible")
    files = {name: out.about for name, out in outs.items()}
    return {name: counts[name] for name in names_of_counts} | {"files": files, "shard_rows": shard_rows}


def _joined(storage: Storage, plan: Plan, score_paths: list[str], split: Split | None) -> Iterator[pa.Table]:
    """The rows of each shard as rows of its file."""
    file, offset = -1, 0
    for shard, path in zip(plan.shards, score_paths, strict=True):
        with storage.open(path) as source:
            raw = pq.read_table(source)
        # Row groups know their first row only by those before them, and byte ranges only so.
        offset = offset if shard.file == file else 0
        file, first, offset = shard.file, offset, offset + len(raw)
        training = np.zeros(len(raw), dtype=bool)
        if split is not None:
            training = in_split(split.seed, split.fraction, shard.index, 0, len(raw))
        nll, tokens = (raw[name].to_numpy(zero_copy_only=False).astype(float) for name in ("nll", "n_tokens"))
        with np.errstate(over="ignore"):  # a perplexity beyond float64 is infinite
            perplexity = np.exp(nll / tokens)
        yield pa.table(
            [
                pa.repeat(plan.files[file].url, len(raw)),
                pc.add(raw["row"], first),
                raw["id"],
                raw["domain"],
                raw["n_tokens"],
                raw["nll"],
                pa.array(perplexity, mask=np.isnan(perplexity)),
                pa.array(training),
                raw["reject"],
            ],
            schema=SCORES,
        )


def write_rows(writer: pq.ParquetWriter, table: pa.Table) -> None:
    """Appends a table, but no row group without rows: some readers fail at one."""
    if len(table):
        writer.write_table(table, row_group_size=ROWS_A_GROUP)


def json_lines(table: pa.Table) -> bytes:
    """A table's rows as JSON lines; a number that JSON has not becomes null."""
    return b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in table.to_pylist())


class Eligible(NamedTuple):
    """The N documents that selections choose from, in the order of (file, row)."""

    nll: np.ndarray  # float64 [N]
    n_tokens: np.ndarray  # int64 [N]
    domains: np.ndarray  # int32 [N], indices into domain_names
    domain_names: list[str | None]
    places: np.ndarray  # int64 [N], their rows in the score table


def eligible_rows(batch: pa.RecordBatch) -> np.ndarray:
    """Which rows of a piece of the score table selections choose from, bool [rows]."""
    return np.asarray(pc.and_not(pc.is_null(batch["reject"]), batch["training"]).to_numpy(zero_copy_only=False))


def read_eligible(storage: Storage, path: str) -> Eligible:
    """The documents of a score table that have a score and did not train the reference."""
    nll: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    domains: list[np.ndarray] = []
    places: list[np.ndarray] = []
    before = 0
    codes: dict[str | None, int] = {}
    with storage.open(path) as source:
        columns = ["domain", "n_tokens", "nll", "training", "reject"]
        for batch in pq.ParquetFile(source).iter_batches(ROWS_A_GROUP, columns=columns):
            there = eligible_rows(batch)
            nll.append(batch["nll"].to_numpy(zero_copy_only=False)[there])
            tokens.append(batch["n_tokens"].to_numpy(zero_copy_only=False)[there].astype(np.int64))
            encoded = batch["domain"].filter(pa.array(there)).dictionary_encode(null_encoding="encode")
            known = [codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()]
            domains.append(np.array(known, dtype=np.int32)[encoded.indices.to_numpy()])
            places.append(before + np.flatnonzero(there))
            before += len(there)
    return Eligible(
        np.concatenate(nll), np.concatenate(tokens), np.concatenate(domains), list(codes), np.concatenate(places)
    )
