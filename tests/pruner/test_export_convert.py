"""Exports in another format: the kept rows of every format as Parquet and as JSON lines."""

import datetime
import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.errors import InputError
from pruner.export import text_columns
from tests.pruner.conftest import Rows, jsonl, parquet
from tests.pruner.exports import DECODERS, TARGETS, encoded, export, scores
from tests.pruner.test_export_parquet import KEPT, READS_NULL_PAIRS, every_type
from tests.pruner.test_formats import arrow, table
from tests.pruner.test_shard_reader import write

SOURCES: dict[str, Callable[[Rows], bytes]] = {
    "a.parquet": lambda rows: parquet(rows, 7),
    "a.jsonl": jsonl,
    "a.ndjson.gz": lambda rows: gzip.compress(jsonl(rows)),
    "a.arrow": lambda rows: arrow(rows, pa.ipc.new_file, compression="lz4"),
    "b.arrow": lambda rows: arrow(rows, pa.ipc.new_stream),
    "a.csv": table,
    "a.tsv.gz": lambda rows: gzip.compress(table(rows, "\t")),
}


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("with_scores", [False, True])
def test_every_format_becomes_parquet_and_json_lines(tmp_path: Path, rows: Rows, name: str, with_scores: bool) -> None:
    path, kept = write(tmp_path / name, SOURCES[name](rows)), KEPT[:9]
    columns = scores(kept) if with_scores else {}
    wanted = [
        rows[row] | {name: column[place].as_py() for name, column in columns.items()} for place, row in enumerate(kept)
    ]
    for target in TARGETS[1:]:
        data = export(path, kept, target, columns).read_bytes()
        if target == "parquet":
            found = pq.read_table(tmp_path / "out/export")
            assert found.to_pylist() == wanted
            assert [found.schema.field(name).type for name in columns] == [c.type for c in columns.values()]
        else:
            lines = DECODERS[target.removeprefix("jsonl")](data).splitlines()
            assert [json.loads(line) for line in lines] == wanted
        assert export(path, kept, target, columns).read_bytes() == data


def converted(path: Path, rows: list[int], **options: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in export(path, rows, "jsonl", **options).read_bytes().splitlines()]


# -- columns as JSON
def test_values_of_every_type_as_json(tmp_path: Path) -> None:
    pq.write_table(every_type(), tmp_path / "a.parquet")
    one, null = converted(tmp_path / "a.parquet", [4, 10])
    assert one == {
        "text": "text 4 é",
        "large": "4",
        "view": "long enough to be no inline value ",
        "binary": "0x04c8",
        "fixed": "\x04\x04\x04\x04",
        "float16": float(np.float16(4 / 3)),
        "float32": float(np.float32(4 / 3)),
        "uint64": 2**63 + 4,
        "int8": 4,
        "decimal": "0.0400",
        "ns": "2023-11-14 22:13:20.000000005",
        "zone": "2024-01-01 04:00:00.000000Z",
        "date": "2024-01-05",
        "time": "01:02:03.000004",
        "duration": 4_000_000,
        "null": None,
        "bool": True,
        "list": [4, None],
        "large list": ["4"],
        "pair": [4.0, 5.0] if READS_NULL_PAIRS else None,
        "map": {"k4": 4},
        "struct": {"a": 4, "b": {"c": [{"d": "4"}]}},
        "words": "a",
        "uuid": "00000000-0000-0000-0000-000000000004",
    }
    assert null == dict.fromkeys(one) | {"text": "text 10 é"}


def test_values_inside_of_others_as_json(tmp_path: Path) -> None:
    day = datetime.date(2024, 1, 1)
    columns = {
        "text": ["a", "b"],
        "deep": [{"days": [day, None], "b": b"\xff", "by day": [(day, b"ok")]}, None],
        "floats": pa.array([[math.nan, math.inf, 0.5], []], pa.list_(pa.float64())),
        "numbers": pa.array([[(7, "x")], []], pa.map_(pa.int64(), pa.string())),
    }
    kind = pa.struct(
        [("days", pa.list_(pa.date32())), ("b", pa.binary()), ("by day", pa.map_(pa.date32(), pa.binary()))]
    )
    columns["deep"] = pa.array(columns["deep"], kind)
    path = tmp_path / "a.arrow"
    made = pa.table(columns)
    with pa.ipc.new_file(path, made.schema) as out:
        out.write_table(made)
    assert converted(path, [0, 1]) == [
        {
            "text": "a",
            "deep": {"days": ["2024-01-01", None], "b": "0xff", "by day": {"2024-01-01": "ok"}},
            "floats": [None, None, 0.5],
            "numbers": {"7": "x"},
        },
        {"text": "b", "deep": None, "floats": [], "numbers": {}},
    ]


def test_columns_or_keys_with_one_name_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["a"], [1], [2]], ["text", "n", "n"]), path)
    assert pq.ParquetFile(export(path, [0])).schema_arrow.names == ["text", "n", "n"]
    with pytest.raises(InputError, match=r"a\.parquet: cannot be exported \(it has several columns 'n'\)"):
        export(path, [0], "jsonl")
    keys = pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))
    pq.write_table(pa.table({"text": ["a"], "map": keys}), path)
    with pytest.raises(InputError, match=r"a\.parquet: cannot be exported \(a map has a key twice\)"):
        export(path, [0], "jsonl")


def test_csv_becomes_strings_and_an_empty_value_null(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b'text,id,x\n"a\nb",007,\n\nc,1.50,\xff,,\n')
    assert converted(path, [0, 2]) == [
        {"text": "a\nb", "id": "007", "x": None},
        {"text": "c", "id": "1.50", "x": "0xff"},
    ]
    found = pq.read_table(export(path, [0, 2], "parquet"))
    assert found.to_pylist() == converted(path, [0, 2])
    assert found.schema.types == [pa.string()] * 3


def test_arrow_metadata_go_to_parquet(tmp_path: Path) -> None:
    path, made = tmp_path / "a.arrow", every_type().select(["text", "words", "struct"])
    with pa.ipc.new_stream(path, made.schema) as out:
        out.write_table(made, max_chunksize=9)
    found = pq.read_table(export(path, KEPT, "parquet"))
    assert found.schema.types == made.schema.types
    assert found.schema.metadata == made.schema.metadata
    assert found.to_pylist() == made.take(KEPT).to_pylist()


def test_types_that_parquet_does_not_have_are_an_error(tmp_path: Path) -> None:
    union = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
    made = pa.table({"text": ["a", "b"], "either": union})
    with pa.ipc.new_stream(tmp_path / "a.arrow", made.schema) as out:
        out.write_table(made)
    assert [row["either"] for row in converted(tmp_path / "a.arrow", [0, 1])] == [1, "b"]
    with pytest.raises(InputError, match=r"a\.arrow: cannot be exported \(Parquet does not have all of its types"):
        export(tmp_path / "a.arrow", [0], "parquet")


# -- JSON lines as columns
def as_table(folder: Path, *values: str) -> pa.Table:
    """The column `v` of the rows that have these values of it; "" has none."""
    lines = ['{"text": "a"}' if value == "" else f'{{"text": "a", "v": {value}}}' for value in values]
    path = write(folder / "a.jsonl", "\n".join(lines).encode())
    return pq.read_table(export(path, range(len(lines)), "parquet"))


BIG = 2**64 - 1
SHAPES: dict[str, tuple[list[str], pa.DataType, list[Any]]] = {
    "integers": (["1", "null", "", "-9223372036854775808"], pa.int64(), [1, None, None, -(2**63)]),
    "unsigned": (["1", str(BIG)], pa.uint64(), [1, BIG]),
    "too large": (["1", str(BIG + 1)], pa.string(), ["1", str(BIG + 1)]),
    "mixed signs": (["-1", str(BIG)], pa.string(), ["-1", str(BIG)]),
    "numbers": (["1", "2.5", "1e300", "NaN"], pa.float64(), [1.0, 2.5, 1e300, math.nan]),
    "inexact": (["9007199254740993", "0.5"], pa.string(), ["9007199254740993", "0.5"]),
    "booleans": (["true", "false"], pa.bool_(), [True, False]),
    "several types": (["1", '"one"', "[1]", "{}", "null"], pa.string(), ["1", '"one"', "[1]", "{}", None]),
    "nulls": (["null", ""], pa.string(), [None, None]),
    "strings": (['"é"', '"\\ud800"', "null"], pa.string(), ["é", "?", None]),
    "lists": (["[1, null]", "[]", "null"], pa.list_(pa.int64()), [[1, None], [], None]),
    "empty lists": (["[]", "[null]"], pa.list_(pa.string()), [[], [None]]),
    "lists of several": (['["a", 1]', "[{}]"], pa.list_(pa.string()), [['"a"', "1"], ["{}"]]),
    "objects": (
        ['{"a": 1}', '{"b": {"c": [true]}, "a": null}', "null"],
        pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.list_(pa.bool_()))]))]),
        [{"a": 1, "b": None}, {"a": None, "b": {"c": [True]}}, None],
    ),
    "objects of several": (
        ['{"a": 1, "b": 1}', '{"a": {"c": 2}}'],
        pa.struct([("a", pa.string()), ("b", pa.int64())]),
        [{"a": "1", "b": 1}, {"a": '{"c":2}', "b": None}],
    ),
    "empty objects": (["{}", "null"], pa.string(), ["{}", None]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_type_holds_for_all_values_of_a_file(tmp_path: Path, name: str) -> None:
    values, kind, wanted = SHAPES[name]
    found = as_table(tmp_path, *values)
    if name == "nulls":
        assert found.schema.names == ["text", "v"]
    assert found["v"].type == kind
    assert repr(found["v"].to_pylist()) == repr(wanted)


def test_values_that_are_nested_deep_become_json(tmp_path: Path) -> None:
    deep = "[" * 60 + "1" + "]" * 60
    value = as_table(tmp_path, deep)["v"][0].as_py()
    while isinstance(value, list):
        (value,) = value
    assert 0 < value.count("[") < 60
    with pytest.raises(InputError, match=r"a\.jsonl: row 1 is to be exported, but is no document"):
        as_table(tmp_path, "1", "[" * 100_000 + "]" * 100_000)


def test_an_object_with_many_names_becomes_json(tmp_path: Path) -> None:
    maps = [json.dumps({f"{row}-{i}": i for i in range(300)}) for row in range(5)]
    found = as_table(tmp_path, *maps)
    assert found["v"].type == pa.string()
    assert [json.loads(text) for text in found["v"].to_pylist()] == [json.loads(text) for text in maps]
    wide = "\n".join(json.dumps({"text": "a"} | {f"{row}-{i}": i for i in range(300)}) for row in range(40))
    with pytest.raises(InputError, match=r"a\.jsonl: its objects have more than 10,000 names; export it as JSON lines"):
        export(write(tmp_path / "a.jsonl", wide.encode()), range(40), "parquet")


def test_only_kept_rows_decide_the_types(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", b'{"text": "a", "v": 1}\n{"text": "b", "v": "x"}\n{"text": "c", "v": 3, "w": 1}\n'
    )
    found = pq.read_table(export(path, [0, 2], "parquet"))
    assert found.schema == pa.schema([("text", pa.string()), ("v", pa.int64()), ("w", pa.int64())])


def test_the_type_of_late_rows_holds_for_early_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_columns, "_BATCH_ROWS", 10)
    lines = [json.dumps({"text": "a", "v": row if row < 2_000 else [str(row)]}) for row in range(2_001)]
    path = write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    (tmp_path / "out.parquet").write_bytes(encoded(path, range(2_001), "parquet"))
    found = pq.read_table(tmp_path / "out.parquet")["v"].to_pylist()
    assert (found[1_999], found[2_000]) == ("1999", '["2000"]')


def test_text_inside_of_a_field_keeps_its_place(tmp_path: Path) -> None:
    """A line that only Python's parser reads, with a text field below another."""
    line = b'{"text": "a", "meta": {"body": "b", "n": NaN}}\n'
    found = pq.read_table(export(write(tmp_path / "a.jsonl", line), [0], "parquet", text_field="meta.body"))
    assert found.schema.names == ["text", "meta"]


def test_datasets_loads_a_converted_file(tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: make test-peers installs it")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = write(tmp_path / "a.jsonl", jsonl(rows))
    for target, builder, name in (("parquet", "parquet", "a.parquet"), ("jsonl.gz", "json", "a.jsonl.gz")):
        out = export(path, KEPT[:9], target, scores(KEPT[:9])).rename(tmp_path / name)  # type: ignore[arg-type]
        found = datasets.load_dataset(
            builder, data_files=str(out), split="train", cache_dir=str(tmp_path / f"cache-{builder}")
        )
        assert found["text"] == [rows[row]["text"] for row in KEPT[:9]]
        assert found["winnow_n_tokens"] == KEPT[:9]
