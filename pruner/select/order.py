"""Orders of an index's documents other than by NLL per token: by NLL per byte, by a seeded hash, by a score."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pruner.corpus.plan import Plan
from pruner.errors import InputError
from pruner.ranks.rank_key import Keys, RankKey, column_key, mean_key, selection_hash
from pruner.select.build_index import build_index
from pruner.select.index import Index
from pruner.select.index_files import read_domain_names, read_shard_rows, write_arrays
from pruner.select.score_table import SCORES_FILE
from pruner.tables.parquet_parts import TablePart
from pruner.tables.storage import Storage
from pruner.tables.stored_table import StoredTable


def write_order(storage: Storage, index_folder: str, folder: str, rank_key: RankKey, beat: Callable[[], None]) -> int:
    """Ranks the documents of the index in `index_folder` by another key; returns their number.

    Writes the arrays into `folder`, as those of an index. Calls `beat` for each part and array. Raises as
    `rank_documents`.
    """
    index = rank_documents(storage, index_folder, rank_key, beat)
    write_arrays(storage, folder, index, beat)
    return index.documents


def rank_documents(storage: Storage, index_folder: str, rank_key: RankKey, beat: Callable[[], None]) -> Index:
    """The documents of the index in `index_folder` by another key, in temporary files. Calls `beat` for each part.

    Of documents without a key none has a rank. Raises FileNotFoundError if the index is missing.
    """
    shard_rows = np.diff(read_shard_rows(storage, index_folder)).tolist()
    names = read_domain_names(storage, index_folder)
    return build_index(storage, f"{index_folder}/{SCORES_FILE}", rank_key, names, shard_rows, beat)


def by_byte() -> RankKey:
    """By nll / n_bytes."""
    return mean_key("n_bytes")


def by_score(storage: Storage, index_folder: str, column: str) -> RankKey:
    """By a column of the table of scores, which documents without a value do not take part in.

    Raises FileNotFoundError if the table is missing, and InputError if it has no such column.
    """
    schema = StoredTable(storage, f"{index_folder}/{SCORES_FILE}").schema
    if column not in schema.names:
        raise InputError(
            f"the table of scores has no column {column!r}, as it was made by an earlier version: submit the job again"
        )
    return column_key(column, schema.field(column).type)


def by_hash(plan: Plan, seed: int) -> RankKey:
    """By a hash of (seed, number of the file in the plan, row of the file)."""
    numbers = {file.url: number for number, file in enumerate(plan.files)}

    def of(rows: pa.Table, _at: TablePart) -> Keys:
        encoded = rows["file"].combine_chunks().dictionary_encode()
        files = np.array([numbers[url] for url in encoded.dictionary.to_pylist()], dtype=np.int64)
        key = selection_hash(seed, files[encoded.indices.to_numpy()], rows["row"].to_numpy())
        return Keys(key, np.zeros(len(rows), dtype=bool), "")

    return RankKey("random", ("file", "row"), of)
