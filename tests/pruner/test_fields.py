"""Fields are found by one rule in every format: columns, dotted paths, folder names."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus.plan import make_plan
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import Rows, column, jsonl, parquet
from tests.pruner.test_formats import arrow, table
from tests.pruner.test_shard_reader import batches, write

ROWS: Rows = [
    {
        "text": f"text {i}",
        "meta": {"set": {"name": f"set{i % 2}"}, "url": f"https://Example{i}.org/x", "n": i},
        "packed": json.dumps({"name": f"p{i}", "deep": {"n": i}}) if i else None,
        "a.b": f"dotted {i}",
    }
    for i in range(5)
]
NESTED = {
    "a.jsonl": jsonl,
    "a.parquet": parquet,
    "a.arrow": lambda rows: arrow(rows, pa.ipc.new_stream),
}


def values(path: Path, field: str) -> list[Any]:
    """A field's values as id and as domain, which must be the same."""
    ids = column(batches(path, id_field=field), "id")
    if not field.endswith("url"):
        assert column(batches(path, domain_field=field), "domain") == ids
    return ids


@pytest.mark.parametrize("name", NESTED)
def test_dotted_paths(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, NESTED[name](ROWS))
    assert values(path, "meta.set.name") == ["set0", "set1", "set0", "set1", "set0"]
    assert values(path, "meta.n") == ["0", "1", "2", "3", "4"]
    assert values(path, "packed.name") == [None, "p1", "p2", "p3", "p4"]
    assert values(path, "packed.deep.n") == [None, "1", "2", "3", "4"]
    assert values(path, "a.b") == [f"dotted {i}" for i in range(5)]
    assert values(path, "meta.set") == [f'{{"name":"set{i % 2}"}}' for i in range(5)]
    assert column(batches(path, domain_field="meta.url"), "domain") == [f"example{i}.org" for i in range(5)]
    found = batches(path, text_field="meta.set.name", columns=("meta.n",))
    assert column(found, "text") == ["set0", "set1", "set0", "set1", "set0"]
    assert [str(row["meta.n"]) for row in column(found, "source")] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("name", NESTED)
def test_a_column_of_the_whole_name_wins(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, NESTED[name]([{"text": "t", "a": {"b": "inner"}, "a.b": "whole"}]))
    assert values(path, "a.b") == ["whole"]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_keys_of_maps(tmp_path: Path, name: str) -> None:
    kind = pa.map_(pa.string(), pa.string())
    made = pa.table({"text": ["a", "b", "c"], "meta": pa.array([[("set", "x")], [("other", "y")], None], kind)})
    if name == "a.parquet":
        pq.write_table(made, tmp_path / name)
    else:
        with pa.ipc.new_file(tmp_path / name, made.schema) as out:
            out.write_table(made)
    assert values(tmp_path / name, "meta.set") == ["x", None, None]


def test_fields_of_the_values_of_maps(tmp_path: Path) -> None:
    kind = pa.map_(pa.string(), pa.struct([("z", pa.int64())]))
    made = pa.table({"text": ["a", "b"], "meta": pa.array([[("a", {"z": 1})], [("b", {"z": 2})]], kind)})
    pq.write_table(made, tmp_path / "a.parquet")
    assert values(tmp_path / "a.parquet", "meta.a.z") == ["1", None]


def test_a_key_that_no_map_has_is_no_field(tmp_path: Path) -> None:
    made = pa.table({"text": ["a"], "meta": pa.array([[("set", "x")]], pa.map_(pa.string(), pa.string()))})
    pq.write_table(made, tmp_path / "a.parquet")
    for field in ("text_field", "domain_field"):
        with pytest.raises(InputError, match=f"no field 'meta.sorce' for corpus.{field}"):
            make_plan(CorpusSpec(paths=[str(tmp_path)], **{field: "meta.sorce"}))


@pytest.mark.parametrize("name", NESTED)
def test_values_in_json_texts_are_exact(tmp_path: Path, name: str) -> None:
    packed = ['{"id":18446744073709551617,"s":"x"}', '{"id":18446744073709551618,"q":NaN,"s":"z\\ud800"}']
    path = write(tmp_path / name, NESTED[name]([{"text": "a", "packed": text} for text in packed]))
    assert values(path, "packed.id") == ["18446744073709551617", "18446744073709551618"]
    assert values(path, "packed.s") == ["x", "z?"]


def test_a_csv_cell_may_hold_an_object(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", table([{"text": "a", "meta": '{"set": "x"}'}, {"text": "b", "meta": "none"}]))
    assert values(path, "meta.set") == ["x", None]


@pytest.mark.parametrize("name", NESTED)
def test_folder_names(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "corpus" / "source=common%20crawl" / "lang=en"
    folder.mkdir(parents=True)
    write(folder / name, NESTED[name](ROWS[:1]))
    write(folder.parent / name, NESTED[name]([{**ROWS[0], "lang": "in the row"}]))
    assert values(tmp_path / "corpus", "source") == ["common crawl"] * 2
    assert values(tmp_path / "corpus", "lang") == ["in the row", "en"]
    assert values(tmp_path / "corpus", "@folder") == ["source=common%20crawl", "lang=en"]
    assert values(tmp_path / "corpus", "@file") == [
        f"source=common%20crawl/{name}",
        f"source=common%20crawl/lang=en/{name}",
    ]


def test_ids_that_are_bytes_are_lossless(tmp_path: Path) -> None:
    ids = [b"\xff\x00", b"\xff\x01", "é".encode(), None]
    for name in ("a.parquet", "a.arrow"):
        made = pa.table({"text": ["x"] * 4, "id": pa.array(ids, pa.binary())})
        if name == "a.parquet":
            pq.write_table(made, tmp_path / name)
        else:
            with pa.ipc.new_stream(tmp_path / name, made.schema) as out:
                out.write_table(made)
        assert values(tmp_path / name, "id") == ["0xff00", "0xff01", "é", None]


@pytest.mark.parametrize("name", [*NESTED, "a.csv"])
@pytest.mark.parametrize(
    ("field", "wrong"), [("text_field", "txt"), ("id_field", "meta.id"), ("domain_field", "sorce")]
)
def test_a_field_that_no_file_has_is_named(tmp_path: Path, name: str, field: str, wrong: str) -> None:
    make = NESTED.get(name, table)
    for number in range(2):
        write(tmp_path / f"{number}{name}", make(ROWS))
    with pytest.raises(
        InputError, match=rf"no field '{wrong}' for corpus\.{field}.*there are text, meta.*packed, a\.b"
    ):
        make_plan(CorpusSpec(paths=[str(tmp_path)], **{field: wrong}))


def test_a_field_of_later_rows_is_found(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl([{"text": "a"}] * 900 + [{"text": "b", "id": "x"}]))
    assert values(tmp_path / "a.jsonl", "id")[-2:] == [None, "x"]


def test_a_file_without_id_or_domain_has_null(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl([{"text": "a"}]))
    write(tmp_path / "b.parquet", parquet([{"text": "b", "id": "x"}]))
    write(tmp_path / "c.parquet", parquet([{"text": "c"}]))
    assert values(tmp_path, "id") == [None, "x", None]


def test_a_file_without_the_text_that_others_have_is_named(tmp_path: Path) -> None:
    write(tmp_path / "documents.jsonl", jsonl([{"text": "a"}]))
    write(tmp_path / "empty.jsonl", b"")
    write(tmp_path / "signals.parquet", parquet([{"id": "x", "quality": 1}]))
    with pytest.raises(
        InputError, match=r"signals\.parquet: no field 'text' .* which other files have; it has id, qual"
    ):
        make_plan(CorpusSpec(paths=[str(tmp_path)]))
    assert len(make_plan(CorpusSpec(paths=[str(tmp_path)], exclude=["signals*"])).files) == 2


def test_a_field_that_scores_and_that_no_file_has_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a", "meta": {"score": 1}}, {"text": "b"}]))
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"text": "c"}]))
    spec = CorpusSpec(paths=[str(tmp_path)])
    assert make_plan(spec, numbers=["meta.score"]) == make_plan(spec)
    with pytest.raises(InputError, match=r"a\.jsonl and 1 other files: no field 'scroe' for a scorer .*text, meta"):
        make_plan(spec, numbers=["meta.score", "scroe"])
