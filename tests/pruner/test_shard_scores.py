"""The files of a shard hold each row once, with its score or a reason, and appear only when they are complete."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus.batches import make_piece, numbered
from pruner.errors import InputError
from pruner.tables.documents import DocumentsWriter
from pruner.tables.shard_scores import ScoresWriter, ShardCounts, read_counts
from pruner.tables.storage import Storage


def batch(*texts: str | None) -> pa.RecordBatch:
    ids = pa.array([f"id{number}" for number in range(len(texts))])
    rejects = pa.array([None if text else "empty text" for text in texts], pa.string())
    piece = make_piece(pa.array(texts, pa.large_string()), ids, pa.nulls(len(texts), pa.string()), rejects)
    return next(numbered([piece], 0, 0))


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def read(storage: Storage, path: str) -> pa.Table:
    with storage.open(path) as source:
        return pq.read_table(source)


def test_documents_have_their_rows_sizes_and_reasons(storage: Storage) -> None:
    with DocumentsWriter(storage, "d.parquet") as writer:
        writer.append(batch("é", None))
        writer.append(batch("abc").set_column(0, "file", pa.array([1], pa.int32())))
    table = read(storage, "d.parquet")
    assert table.to_pydict() == {
        "file": [0, 0, 1],
        "row": [0, 1, 0],
        "id": ["id0", "id1", "id0"],
        "domain": [None] * 3,
        "n_bytes": [2, None, 3],
        "reject": [None, "empty text", None],
    }
    with storage.open("d.parquet") as source:
        metadata = pq.read_metadata(source).metadata
    assert json.loads(metadata[b"winnow"]) == {"format": 1, "documents": 3, "rejects": 1}


def test_scores_and_reasons_stand_at_the_rows_of_their_texts(storage: Storage) -> None:
    with ScoresWriter(storage, "s.parquet", {"device": "cpu"}) as writer:
        measured = np.array([4.5, 0.0]), np.array([1.25, 0.0]), np.array([0, 0])
        writer.append(batch("a", None, "b"), np.array([3, 0]), np.array([1.5, np.nan]), measured)
        measured = np.array([1.0, 2.0, 99.0]), np.array([1.0, 1.0, 9.5]), np.array([0.0, 0.0, 1.0])
        writer.append(batch("c", "d", "e"), np.array([1, 2, 3]), np.array([np.inf, np.nan, 0.25]), measured)
        writer.append(batch(None), np.array([]), np.array([]), [np.array([])] * 3)
    table = read(storage, "s.parquet")
    assert table.schema.types == [pa.int32(), *[pa.float64()] * 3, pa.int32(), pa.string()]
    assert table.to_pydict() == {
        "n_tokens": [3, None, None, None, None, 3, None],
        "nll": [1.5, None, None, None, None, 0.25, None],
        "surprisal_sq": [4.5, None, None, None, None, 99.0, None],
        "surprisal_max": [1.25, None, None, None, None, 9.5, None],
        "over_8": [0, None, None, None, None, 1, None],
        "reject": [None, None, "fewer than one scored token", "non-finite NLL", "non-finite NLL", None, None],
    }
    counts = read_counts(storage, "s.parquet")
    assert counts == ShardCounts(documents=7, tokens=6, rejects=5, scorer={"device": "cpu"})


def test_scores_for_other_rows_are_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="2 and 2 scores for 1 texts"), ScoresWriter(storage, "s", {}) as writer:
        writer.append(batch("a", None), np.array([1, 2]), np.array([1.0, 2.0]), [np.zeros(2)] * 3)


def test_an_interrupted_file_does_not_appear(storage: Storage) -> None:
    for writer in (ScoresWriter(storage, "s", {}), DocumentsWriter(storage, "d")):
        with pytest.raises(KeyboardInterrupt), writer:
            raise KeyboardInterrupt
    assert storage.list("") == []


def test_a_file_that_cannot_be_completed_does_not_appear(storage: Storage) -> None:
    with pytest.raises(TypeError), ScoresWriter(storage, "s", {"not": {"json": object()}}) as writer:
        writer.append(batch("a"), np.array([1]), np.array([1.0]), [np.zeros(1)] * 3)
    assert storage.list("") == []


def test_the_same_scores_give_the_same_bytes(storage: Storage) -> None:
    for name in ("a", "b"):
        about: dict[str, int] = {}
        with ScoresWriter(storage, name, about) as writer:
            writer.append(batch("a", None), np.array([1]), np.array([1.0]), [np.zeros(1)] * 3)
            about["known"] = 1  # as it is in the end
    assert storage.read_bytes("a") == storage.read_bytes("b")
    assert read_counts(storage, "a").scorer == {"known": 1}


def test_files_of_another_format_are_refused(storage: Storage) -> None:
    with storage.create("s") as out:
        pq.write_table(pa.table({"n_tokens": [1]}).replace_schema_metadata({"winnow": '{"documents": 1}'}), out)
    with pytest.raises(InputError, match="s: has format None, but this version of Winnow reads format 1"):
        read_counts(storage, "s")
