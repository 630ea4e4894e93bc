"""Exports of Parquet files as Parquet: the same columns, types, codecs, row groups and metadata."""

import datetime
import decimal
import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pruner.corpus import sandbox
from pruner.errors import InputError
from pruner.export import export_file, kept_columns, parquet_file
from tests.pruner.exports import encoded, export, scores

ROWS = 60
READS_NULL_PAIRS = int(pa.__version__.partition(".")[0]) >= 26  # nulls among lists of a fixed size
KEPT = [0, 1, 3, 4, 9, 10, 17, 29, 31, 32, 33, 58]


def some(values: Callable[[int], Any], kind: Any = None) -> pa.Array:
    """A column with nulls."""
    return pa.array([None if row % 7 == 3 else values(row) for row in range(ROWS)], kind)


def every_type() -> pa.Table:
    day, second = datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1)
    columns = {
        "text": pa.array([f"text {row} é" for row in range(ROWS)]),
        "large": some(str, pa.large_string()),
        "view": some(lambda row: "long enough to be no inline value " * (row % 3), pa.string_view()),
        "binary": some(lambda row: bytes([row, 200]), pa.binary()),
        "fixed": some(lambda row: bytes([row] * 4), pa.binary(4)),
        "float16": some(lambda row: np.float16(row / 3), pa.float16()),
        "float32": some(lambda row: row / 3, pa.float32()),
        "uint64": some(lambda row: 2**63 + row, pa.uint64()),
        "int8": some(int, pa.int8()),
        "decimal": some(lambda row: decimal.Decimal(row) / 100, pa.decimal128(10, 4)),
        "ns": some(lambda row: 1_700_000_000_000_000_001 + row, pa.timestamp("ns")),
        "zone": some(lambda row: second + datetime.timedelta(hours=row), pa.timestamp("us", "Europe/Berlin")),
        "date": some(lambda row: day + datetime.timedelta(row)),
        "time": some(lambda row: datetime.time(1, 2, 3, row), pa.time64("us")),
        "duration": some(lambda row: datetime.timedelta(seconds=row), pa.duration("us")),
        "null": pa.nulls(ROWS),
        "bool": some(lambda row: row % 2 == 0),
        "list": some(lambda row: [row, None] * (row % 3), pa.list_(pa.int16())),
        "large list": some(lambda row: [str(row)], pa.large_list(pa.string())),
        "pair": some(lambda row: [row, row + 1], pa.list_(pa.float32(), 2)) if READS_NULL_PAIRS else pa.nulls(ROWS),
        "map": some(lambda row: [(f"k{row}", row)], pa.map_(pa.string(), pa.int32())),
        "struct": some(lambda row: {"a": row, "b": {"c": [{"d": str(row)}]}}),
        "words": some(lambda row: "ab"[row % 2]).dictionary_encode(),
        "uuid": some(lambda row: uuid.UUID(int=row).bytes, pa.uuid()),
    }
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    fields[0] = pa.field("text", pa.string(), nullable=False, metadata={"about": "the text"})
    return pa.table(list(columns.values()), pa.schema(fields, {"made by": "a test"}))


def values(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python values. Nanoseconds as int64: Python has no type for them without pandas."""
    at = table.schema.get_field_index("ns")
    table = table if at < 0 else table.set_column(at, "ns", table["ns"].cast(pa.int64()))
    return table.to_pylist()  # type: ignore[no-any-return]


def rows_of(path: Path, rows: list[int]) -> list[dict[str, Any]]:
    found = values(pq.read_table(path))
    return [found[row] for row in rows]


def groups(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]


def codecs(path: Path) -> list[str]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(0).column(leaf).compression for leaf in range(metadata.num_columns)]


@pytest.mark.parametrize("store_schema", [True, False])
@pytest.mark.parametrize("item_names", [True, False])
def test_columns_types_and_metadata_are_those_of_the_file(tmp_path: Path, store_schema: bool, item_names: bool) -> None:
    path, table = tmp_path / "a.parquet", every_type()
    options = {"store_schema": store_schema, "use_compliant_nested_type": not item_names}
    with pq.ParquetWriter(path, table.schema, **options) as writer:
        writer.write_table(table, 7)
        writer.add_key_value_metadata({"also": "this"})
    out = export(path, KEPT)
    assert values(pq.read_table(out)) == rows_of(path, KEPT)
    assert pq.read_schema(out).equals(pq.read_schema(path), check_metadata=True)
    assert str(pq.read_metadata(out).schema).split("\n")[1:] == str(pq.read_metadata(path).schema).split("\n")[1:]
    assert (b"ARROW:schema" in pq.read_metadata(out).metadata) == store_schema


def test_row_groups_have_the_rows_of_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(every_type().select(["text"]), path, row_group_size=7)
    assert groups(export(path, KEPT)) == [7, 5]
    assert groups(export(path, range(ROWS))) == groups(path)


def test_each_column_keeps_its_codec(tmp_path: Path) -> None:
    path, names = tmp_path / "a.parquet", ["NONE", "SNAPPY", "GZIP", "BROTLI", "LZ4", "ZSTD"]
    table = pa.table({f"c{name}": every_type()["text"] for name in names}).append_column("text", [["a"] * ROWS])
    table = table.append_column("a.b", every_type()["struct"])
    leaves = pq.ParquetFile(_written(table, tmp_path / "leaves.parquet")).metadata.schema
    paths = [leaves.column(leaf).path for leaf in range(len(leaves))]
    by_path = {path: names[number % len(names)] for number, path in enumerate(paths)}
    pq.write_table(table, path, compression=by_path)
    assert set(codecs(path)) == {name.replace("NONE", "UNCOMPRESSED") for name in names}
    assert codecs(export(path, KEPT)) == codecs(path)
    assert codecs(export(path, KEPT, columns=scores(KEPT))) == [*codecs(path), *["UNCOMPRESSED"] * 4]


def _written(table: pa.Table, path: Path) -> Path:
    pq.write_table(table, path)
    return path


def test_times_as_int96_stay_so_whatever_their_year(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    times = [datetime.datetime(year, 12, 31, 1, 2, 3, 456) for year in (1, 1900, 2024, 9999)]
    table = pa.table({"text": list("abcd"), "at": pa.array(times, pa.timestamp("us"))})
    pq.write_table(table, path, use_deprecated_int96_timestamps=True, store_schema=False)
    out = export(path, [0, 2, 3])
    assert pq.read_metadata(out).schema.column(1).physical_type == "INT96"
    found = pq.ParquetFile(out, coerce_int96_timestamp_unit="us").read()["at"]
    assert found.to_pylist() == [times[0], times[2], times[3]]


# -- large row groups and long documents
def varied(size: int, seed: int) -> str:
    """Text that compresses well, but not as well as a bomb."""
    return np.random.default_rng(seed).bytes(size // 200).hex() * 100


@pytest.mark.parametrize(("documents", "mebibytes"), [(10_000, 300), (1_000_000, 1_024)])  # in pages of 10 and 300 MB
def test_a_row_group_over_256_mb_is_split_within_little_memory(tmp_path: Path, documents: int, mebibytes: int) -> None:
    sandbox.close_idle()
    path, count = tmp_path / "a.parquet", 300_000_000 // documents
    texts = [varied(documents, seed) for seed in range(300)]
    table = pa.table({"text": pa.chunked_array([texts] * (count // 300)), "n": range(count)})
    pq.write_table(table, path, row_group_size=count, compression="zstd")
    del table
    out = export(path, range(0, count, 2))
    metadata = pq.read_metadata(out)
    assert metadata.num_row_groups > 1
    assert max(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)) < 256_000_000
    assert pq.read_table(out, columns=["n"])["n"].to_pylist() == list(range(0, count, 2))
    (reader,) = sandbox._idle[export_file._PROGRAM]
    peak = int(Path(f"/proc/{reader.pid}/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10
    assert peak < mebibytes


def test_long_documents_alone_make_no_large_row_groups(tmp_path: Path) -> None:
    """Of 30 row groups of 11 MB, each with a document of 10 MB, only these are kept."""
    path = tmp_path / "a.parquet"
    texts = ["x" * 1_000] * 100 + [varied(10_000_000, 1)]
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        for _ in range(30):
            writer.write_table(pa.table({"text": texts}))
    out = export(path, range(100, 3030, 101))
    assert groups(out) == [25, 5]
    assert pc.all(pc.equal(pq.read_table(out)["text"], texts[-1])).as_py()


@pytest.mark.parametrize("group_bytes", [1, 300, 2_000, 1 << 20])
def test_bytes_do_not_depend_on_how_rows_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_bytes: int
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(every_type(), path, row_group_size=25)
    monkeypatch.setattr(parquet_file, "_GROUP_BYTES_MAX", group_bytes)
    monkeypatch.setattr(parquet_file, "_GROUP_BYTES", group_bytes)
    monkeypatch.setattr(kept_columns, "BLOCK_ROWS", 10)
    monkeypatch.setattr(parquet_file, "_CHUNK_ROWS", 4)
    monkeypatch.setattr(parquet_file, "_CHUNK_BYTES", 700)
    found = [encoded(path, KEPT, careful=careful) for careful in (False, True)]
    assert found[0] == found[1]
    (tmp_path / "out.parquet").write_bytes(found[0])
    assert values(pq.read_table(tmp_path / "out.parquet")) == rows_of(path, KEPT)
    assert (len(groups(tmp_path / "out.parquet")) == 1) == (group_bytes == 1 << 20)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(every_type(), path, 7)
    first = export(path, KEPT, columns=scores(KEPT)).read_bytes()
    assert export(path, KEPT, columns=scores(KEPT)).read_bytes() == first


def test_a_file_of_many_columns_is_exported(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a", "b"]} | {f"c{i}": [i, i] for i in range(3_000)}), path)
    assert values(pq.read_table(export(path, [1]))) == rows_of(path, [1])


# -- scores
def test_scores_are_the_last_columns(tmp_path: Path) -> None:
    path, added = tmp_path / "a.parquet", scores(KEPT)
    pq.write_table(every_type(), path, 7)
    found = pq.read_table(export(path, KEPT, columns=added))
    assert found.schema.names == [*every_type().schema.names, *added]
    assert found.select(list(added)).to_pydict() == {name: column.to_pylist() for name, column in added.items()}
    assert [found.schema.field(name).type for name in added] == [column.type for column in added.values()]
    assert values(found.drop_columns(list(added))) == rows_of(path, KEPT)
    assert found.schema.metadata == {b"made by": b"a test"}


def test_many_kept_rows_have_their_own_scores(tmp_path: Path) -> None:
    path, count = tmp_path / "a.parquet", 50_000
    pq.write_table(pa.table({"text": [str(row) for row in range(count)]}), path, row_group_size=7_001)
    kept = [row for row in range(count) if row % 5]
    found = pq.read_table(export(path, kept, columns=scores(kept)))
    assert found["text"].to_pylist() == [str(row) for row in kept]
    assert found["winnow_n_tokens"].to_pylist() == kept
    assert groups(tmp_path / "out/export") == [7_001] * 5 + [4_995]


def test_pandas_reads_the_index_that_fits_and_the_added_columns(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas", reason="pandas is not installed: make test-peers installs it and runs this")
    path, kept = tmp_path / "a.parquet", [1, 5, 6]
    frame = pd.DataFrame({"text": list("abcdefgh"), "n": range(8)})
    frame.to_parquet(path)
    for columns in (None, scores(kept)):
        found = pd.read_parquet(export(path, kept, columns=columns))
        assert list(found.index) == [0, 1, 2]
        assert list(found["text"]) == list("bfg")
        about = json.loads(pq.read_schema(tmp_path / "out/export").metadata[b"pandas"])
        assert [column["name"] for column in about["columns"]] == ["text", "n", *(columns or ())]
        assert about["index_columns"] == [{"kind": "range", "name": None, "start": 0, "stop": 3, "step": 1}]
    frame.set_index("text").to_parquet(path)
    assert list(pd.read_parquet(export(path, kept, columns=scores(kept))).index) == list("bfg")


def test_datasets_loads_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: make test-peers installs it")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, kept = tmp_path / "a.parquet", [1, 5, 6]
    made = datasets.Dataset.from_dict({"text": list("abcdefgh"), "label": [0, 1] * 4}).cast_column(
        "label", datasets.ClassLabel(names=["bad", "good"])
    )
    made.to_parquet(path)
    assert b"huggingface" in pq.read_schema(path).metadata
    for number, columns in enumerate((None, scores(kept))):
        out = export(path, kept, columns=columns)
        found = datasets.load_dataset(
            "parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / f"cache{number}")
        )
        assert found["text"] == list("bfg")
        assert found.features["label"].names == ["bad", "good"]
        assert set(found.column_names) == {"text", "label", *(columns or ())}


def test_the_schema_of_spark_gets_the_added_columns(tmp_path: Path) -> None:
    path, key = tmp_path / "a.parquet", b"org.apache.spark.sql.parquet.row.metadata"
    text = {"name": "text", "type": "string", "nullable": True, "metadata": {}}
    about = json.dumps({"type": "struct", "fields": [text]})
    pq.write_table(pa.table({"text": ["a"]}).replace_schema_metadata({key: about}), path)
    found = json.loads(pq.read_schema(export(path, [0], columns=scores([0]))).metadata[key])
    assert [(field["name"], field["type"]) for field in found["fields"]] == [
        ("text", "string"),
        ("winnow_nll", "double"),
        ("winnow_n_tokens", "long"),
        ("winnow_percentile", "double"),
        ("edu", "float"),
    ]


def test_metadata_of_other_shapes_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    metadata = {"pandas": "[1]", "huggingface": "no JSON", "org.apache.spark.sql.parquet.row.metadata": "{}"}
    pq.write_table(pa.table({"text": ["a"]}).replace_schema_metadata(metadata), path)
    found = pq.read_schema(export(path, [0], columns=scores([0]))).metadata
    assert found == {key.encode(): value.encode() for key, value in metadata.items()}


def test_other_tools_read_the_export(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed: make test-peers installs it")
    polars = pytest.importorskip("polars", reason="polars is not installed: make test-peers installs it")
    path = tmp_path / "a.parquet"
    polars.DataFrame({"text": [f"t{i}" for i in range(50)], "tags": [[str(i)] for i in range(50)]}).write_parquet(
        path, row_group_size=9
    )
    out = export(path, KEPT[:9], columns=scores(KEPT[:9]))
    assert polars.read_parquet(out).drop("edu", "^winnow_.*$").equals(polars.read_parquet(path)[KEPT[:9]])
    found = duckdb.sql(f"select text, tags, winnow_n_tokens from read_parquet('{out}')").fetchall()
    assert found == [(f"t{row}", [str(row)], row) for row in KEPT[:9]]
    other = tmp_path / "b.parquet"
    duckdb.sql(f"copy (select * from '{path}') to '{other}' (format parquet, row_group_size 2048, compression zstd)")
    out = export(other, [7, 49])
    assert duckdb.sql(f"select text from read_parquet('{out}')").fetchall() == [("t7",), ("t49",)]


# -- rows that cannot be exported
def test_kept_rows_that_are_no_documents_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([b"a", None, b"", b"\xff", b"b"], pa.binary())
    pq.write_table(pa.table({"text": texts}), path, row_group_size=2)
    for row, reason in {1: "not text: null", 2: "empty text", 3: "invalid UTF-8"}.items():
        with pytest.raises(InputError, match=rf"a\.parquet: row {row} is to be exported, but is no .*{reason}"):
            export(path, [0, row, 4])
    assert pq.read_table(export(path, [0, 4]))["text"].to_pylist() == [b"a", b"b"]
    with pytest.raises(InputError, match=r"a\.parquet: row 5 is to be exported, but is not there"):
        export(path, [0, 5])


def test_a_column_that_is_there_already_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"], "winnow_nll": [1.0]}), path)
    with pytest.raises(InputError, match=r"a\.parquet: has a column 'winnow_nll' already; export it without scores"):
        export(path, [0], columns=scores([0]))
