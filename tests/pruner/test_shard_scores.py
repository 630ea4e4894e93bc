"""A shard's score file holds every row once, with its score or its reason, or is not there at all."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pruner.corpus.shard_reader import Block
from pruner.tables.shard_scores import ShardScoresWriter, read_summary
from pruner.tables.storage import Storage


def block(*texts: str | None) -> Block:
    made = Block()
    for number, text in enumerate(texts):
        made.add(text, None if text else "empty text", f"id{number}", None)
    return made


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def test_rows_scores_and_reasons(storage: Storage) -> None:
    with ShardScoresWriter(storage, "s.parquet", {"device": "cpu"}) as writer:
        writer.append(block("a", None, "b"), np.array([3, 0, 0]), np.array([1.5, np.nan, np.nan]))
        writer.append(block("c", "d", "e"), np.array([1, 2, 3]), np.array([np.inf, np.nan, 0.25]))
    with storage.open("s.parquet") as source:
        table = pq.read_table(source)
    assert table.column("row").to_pylist() == [0, 1, 2, 3, 4, 5]
    assert table.column("n_tokens").to_pylist() == [3, None, None, None, None, 3]
    assert table.column("nll").to_pylist() == [1.5, None, None, None, None, 0.25]
    assert table.column("reject").to_pylist() == [
        None,
        "empty text",
        "fewer than one scored token",
        "non-finite NLL",
        "non-finite NLL",
        None,
    ]
    summary = read_summary(storage, "s.parquet")
    assert summary == {"documents": 6, "tokens": 6, "rejects": 4, "scorer": {"device": "cpu"}}


def test_an_interrupted_file_does_not_appear(storage: Storage) -> None:
    with pytest.raises(KeyboardInterrupt), ShardScoresWriter(storage, "s.parquet", {}) as writer:
        writer.append(block("a"), np.array([1]), np.array([1.0]))
        raise KeyboardInterrupt
    assert storage.list("") == []


def test_the_same_scores_are_the_same_bytes(storage: Storage) -> None:
    for name in ("a", "b"):
        with ShardScoresWriter(storage, name, {"x": 1}) as writer:
            writer.append(block("a", None), np.array([1, 0]), np.array([1.0, np.nan]))
    assert storage.read_bytes("a") == storage.read_bytes("b")


def test_labels_that_are_no_unicode_are_written(storage: Storage) -> None:
    made = Block()
    made.add("a", None, "\ud800", "\udfff")
    with ShardScoresWriter(storage, "s.parquet", {}) as writer:
        writer.append(made, np.array([1]), np.array([1.0]))
    with storage.open("s.parquet") as source:
        assert pq.read_table(source).column("id").to_pylist() == ["?"]
