"""A scored corpus: writes the files of each shard as workers do, with scores by a rule of the test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.corpus.plan import Plan, make_plan
from pruner.corpus.shard_reader import read_shard
from pruner.corpus.train_split import Split
from pruner.select.index_files import read_index
from pruner.select.selection import SelectionWriter, part_count
from pruner.select.selection_record import SelectionRecord
from pruner.select.write_index import IndexCounts, write_index
from pruner.spec import CorpusSpec, SelectionSpec
from pruner.tables.documents import DocumentsWriter
from pruner.tables.shard_scores import ScoresWriter
from pruner.tables.storage import Storage

SPLIT = Split(3, 0.2)


class ScoredCorpus:
    """The shards' files of a corpus; `score` gives n_tokens and NLL of a text."""

    def __init__(
        self,
        storage: Storage,
        spec: CorpusSpec,
        score: Callable[[str], tuple[int, float]],
        scorer: Callable[[int], dict[str, Any]] = lambda _shard: {},
    ) -> None:
        self.storage, self.spec = storage, spec
        self.plan: Plan = make_plan(spec)
        self.documents_paths = [f"documents/{shard.index}" for shard in self.plan.shards]
        self.scores_paths = [f"scores/{shard.index}" for shard in self.plan.shards]
        for shard in self.plan.shards:
            with (
                DocumentsWriter(storage, self.documents_paths[shard.index]) as documents,
                ScoresWriter(storage, self.scores_paths[shard.index], scorer(shard.index)) as scores,
            ):
                for batch in read_shard(self.plan.files_of(shard), shard, spec):
                    documents.append(batch)
                    found = [score(text) for text in batch["text"].drop_null().to_pylist()]
                    n_tokens, nll = np.array(found).reshape(-1, 2).T
                    mean = nll / np.maximum(n_tokens, 1)
                    scores.append(batch, n_tokens, nll, (mean * nll, mean, (mean > 8) * n_tokens))

    def index(
        self, folder: str = "job", split: Split | None = None, beat: Callable[[], None] = lambda: None
    ) -> IndexCounts:
        paths = self.documents_paths, self.scores_paths
        return write_index(self.storage, folder, self.plan, self.spec, *paths, split, beat)

    def table(self, path: str) -> pa.Table:
        with self.storage.open(path) as source:
            return pq.read_table(source)

    def rows(self, path: str) -> list[dict[str, Any]]:
        return list(self.table(path).to_pylist())


def write_selection(
    storage: Storage, index: str, order: str, folder: str, spec: SelectionSpec, provenance: dict[str, Any]
) -> SelectionRecord:
    """Makes a selection as workers do, part by part; the folders are those of the index, the order and the result."""
    writer = SelectionWriter(storage, index, order, folder, spec, provenance)
    parts = part_count(int(read_index(storage, index).shards[-1]))
    for part in range(parts if parts > 1 else 0):
        writer.write_part(part, lambda: None)
    return writer.write(lambda: None)


def corpus_spec(folder: Path, **fields: str) -> CorpusSpec:
    return CorpusSpec(paths=[str(folder)], **fields)
