"""Exports of Arrow files and streams in their own format."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pytest

from pruner.errors import InputError
from pruner.export import arrow_file
from tests.pruner.exports import encoded, export, scores
from tests.pruner.test_export_parquet import KEPT, ROWS, every_type, values

NEW = {"file": pa.ipc.new_file, "stream": pa.ipc.new_stream}
OPEN = {"file": pa.ipc.open_file, "stream": pa.ipc.open_stream}


def write(path: Path, batches: Iterable[pa.RecordBatch], kind: str, **options: Any) -> Path:
    batches = list(batches)
    with NEW[kind](path, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path


def read(path: Path, kind: str) -> pa.Table:
    with OPEN[kind](path) as reader:
        return reader.read_all()


def sizes(path: Path, kind: str) -> list[int]:
    return [len(chunk) for chunk in read(path, kind).column(0).chunks]


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_a_file_or_stream_keeps_types_metadata_and_compression(
    tmp_path: Path, kind: str, compression: str | None
) -> None:
    table = every_type().drop_columns(["words"])
    path = write(tmp_path / "a.arrow", table.to_batches(7), kind, compression=compression)
    out = export(path, KEPT)
    found = read(out, kind)
    source = values(read(path, kind))
    assert values(found) == [source[row] for row in KEPT]
    assert found.schema.equals(table.schema, check_metadata=True)
    assert sizes(out, kind) == [7, 5]
    found.validate(full=True)
    # The same rows that pyarrow writes with this compression have the same size.
    again = write(tmp_path / "again.arrow", found.combine_chunks().to_batches(7), kind, compression=compression)
    assert abs(out.stat().st_size - again.stat().st_size) < 3_000
    assert (
        export(path, KEPT, columns=scores(KEPT)).read_bytes() == export(path, KEPT, columns=scores(KEPT)).read_bytes()
    )
    with_scores = read(tmp_path / "out/export", kind)
    assert with_scores.select(list(scores(KEPT))).to_pydict() == {n: c.to_pylist() for n, c in scores(KEPT).items()}


def words(values: list[str | None], dictionary: list[str]) -> pa.RecordBatch:
    column = pa.array([None if value is None else dictionary.index(value) for value in values], pa.int8())
    encoded = pa.DictionaryArray.from_arrays(column, dictionary)
    nested = pa.ListArray.from_arrays(list(range(len(values) + 1)), encoded)
    return pa.record_batch({"text": [f"t{v}" for v in values], "word": encoded, "nested": nested})


def test_dictionaries_that_a_stream_replaces_are_kept(tmp_path: Path) -> None:
    one, two = [f"a{i}" for i in range(100)], [f"b{i}" for i in range(100)]
    batches = [words(["a1", "a99", None], one), words(["b1", "b99"], two), words(["a5", None, "a7"], one)]
    path = write(tmp_path / "a.arrow", batches, "stream")
    source = read(path, "stream")
    for kept in ([0, 1, 3, 4, 5, 7], [2, 6], [4]):
        out = export(path, kept, columns=scores(kept))
        found = read(out, "stream").select(source.schema.names)
        assert found.schema == source.schema
        assert found.to_pylist() == [source.to_pylist()[row] for row in kept]
    assert sizes(export(path, [0, 1, 3, 4, 5, 7]), "stream") == [2, 2, 2]


@pytest.mark.parametrize("kind", NEW)
def test_dictionaries_that_grow_are_kept(tmp_path: Path, kind: str) -> None:
    batches = [words(["a", "b"], ["a", "b"]), words(["c", "a"], ["a", "b", "c"]), words(["d"], ["a", "b", "c", "d"])]
    path = write(tmp_path / "a.arrow", batches, kind, emit_dictionary_deltas=True)
    found = read(export(path, [0, 3, 4]), kind)
    assert found["word"].to_pylist() == ["a", "a", "d"]
    assert found["nested"].to_pylist() == [["a"], ["a"], ["d"]]


def test_large_record_batches_are_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.arrow", every_type().select(["text"]).to_batches(), "stream")
    monkeypatch.setattr(arrow_file, "_BATCH_BYTES", 100)
    out = tmp_path / "out.arrow"
    out.write_bytes(encoded(path, range(ROWS)))
    assert max(sizes(out, "stream")) < 10
    assert read(out, "stream").equals(read(path, "stream"))


def test_string_views_leave_other_rows_behind(tmp_path: Path) -> None:
    texts = pa.array([f"{row} {'secret' * 100}" if row != 5 else "a" * 100 for row in range(200)], pa.string_view())
    path = write(tmp_path / "a.arrow", [pa.record_batch({"text": texts})], "file")
    out = export(path, [5])
    assert b"secret" not in out.read_bytes()
    assert read(out, "file")["text"].to_pylist() == ["a" * 100]


@pytest.mark.filterwarnings("ignore:pyarrow.feather:FutureWarning")  # deprecated in some versions
def test_a_feather_file_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "a.feather"
    feather.write_feather(every_type().select(["text", "struct"]), path)
    out = export(path, KEPT)
    assert feather.read_table(out).equals(feather.read_table(path).take(KEPT))


def test_a_saved_dataset_is_loaded_from_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: make test-peers installs it")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = datasets.Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 1] * 4})
    made.cast_column("label", datasets.ClassLabel(names=["bad", "good"])).save_to_disk(str(tmp_path / "saved"))
    kept = [1, 5, 6]
    out = export(tmp_path / "saved/data-00000-of-00001.arrow", kept, columns=scores(kept))
    found = datasets.load_dataset(
        "arrow", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"), verification_mode="no_checks"
    )
    assert found["text"] == list("bfg")
    assert found.features["label"].names == ["bad", "good"]
    assert found["winnow_n_tokens"] == kept


def test_rows_that_cannot_be_exported_are_errors(tmp_path: Path) -> None:
    batch = pa.record_batch({"text": ["a", None, "b"], "winnow_nll": [1.0, 2.0, 3.0]})
    path = write(tmp_path / "a.arrow", [batch, batch.slice(0, 0), batch], "file")
    assert read(export(path, [0, 3, 5]), "file")["text"].to_pylist() == ["a", "a", "b"]
    with pytest.raises(InputError, match=r"a\.arrow: row 4 is to be exported, but is no document \(not text: null\)"):
        export(path, [0, 4])
    with pytest.raises(InputError, match=r"a\.arrow: row 6 is to be exported, but is not there"):
        export(path, [0, 6])
    with pytest.raises(InputError, match=r"a\.arrow: has a column 'winnow_nll' already"):
        export(path, [0], columns=scores([0]))
