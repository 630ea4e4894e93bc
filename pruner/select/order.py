"""Orders of an index's documents other than by perplexity: by NLL per byte, and by a seeded hash."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.plan import Plan
from pruner.corpus.row_hash import row_hash
from pruner.select.build_index import IndexBuilder, RankKey
from pruner.select.index import read_shard_rows, write_arrays
from pruner.select.score_table import ROWS_A_GROUP, SCORES_FILE
from pruner.tables.storage import Storage

SELECTIONS_SEED = 1 << 63  # added to seeds, which are smaller, so that no train split draws by the same hash
_COLUMNS = ("nll", "n_tokens", "domain", "training", "reject")  # that every order needs


def write_order(storage: Storage, index_folder: str, folder: str, rank_key: RankKey, beat: Callable[[], None]) -> int:
    """Ranks the documents of the index in `index_folder` by another key; returns their number, which must not be 0.

    Writes the arrays into `folder`, as those of an index. Calls `beat` for each row group and array. Needs up to 100
    bytes of memory a document, as making an index does. Raises FileNotFoundError if the index is missing.
    """
    builder = IndexBuilder(rank_key)
    columns = list(dict.fromkeys((*_COLUMNS, *rank_key.columns)))
    with storage.open(f"{index_folder}/{SCORES_FILE}") as source:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_A_GROUP, columns=columns):
            builder.add(pa.Table.from_batches([batch]))
            beat()
    shard_rows = np.diff(read_shard_rows(storage, index_folder)).tolist()
    write_arrays(storage, folder, builder.build(shard_rows, beat), beat)
    return builder.eligible


def by_byte() -> RankKey:
    """By nll / n_bytes."""
    return RankKey(("nll", "n_bytes"), lambda rows: np.asarray(rows["nll"].to_numpy() / rows["n_bytes"].to_numpy()))


def by_hash(plan: Plan, seed: int) -> RankKey:
    """By a hash of (seed, number of the file in the plan, row of the file)."""
    numbers = {file.url: number for number, file in enumerate(plan.files)}

    def of(rows: pa.Table) -> np.ndarray:
        encoded = rows["file"].combine_chunks().dictionary_encode()
        files = np.array([numbers[url] for url in encoded.dictionary.to_pylist()], dtype=np.int64)
        return row_hash(SELECTIONS_SEED + seed, files[encoded.indices.to_numpy()], rows["row"].to_numpy())

    return RankKey(("file", "row"), of)
