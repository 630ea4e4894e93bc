"""Shards are cut by a fixed rule from footers and sizes alone; changed files are noticed."""

import gzip
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus import plan as plans
from pruner.corpus.plan import Plan, check_unchanged, make_plan
from pruner.corpus.plan_file import read_plan, write_plan
from pruner.corpus.shard import Shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage

SMALL = 1 << 12
LINE = b'{"text": "a", "id": 1}\n'


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "SHARD_BYTES", SMALL)
    monkeypatch.setattr(plans, "SHARD_BYTES_MAX", 2 * SMALL)


def spec(*paths: Path, **fields: str) -> CorpusSpec:
    return CorpusSpec(paths=[str(path) for path in paths], **fields)


def write_groups(path: Path, sizes: list[int]) -> None:
    """A Parquet file with a row group of one document for each size, which no encoding makes smaller."""
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema, use_dictionary=False, compression="none", write_statistics=False) as writer:
        for size in sizes:
            writer.write_table(pa.table({"text": ["x" * size]}, schema=schema))


def test_row_groups_gather_into_shards(tmp_path: Path, small_shards: None) -> None:
    write_groups(tmp_path / "a.parquet", [1000] * 10 + [3 * SMALL, 100, 2 * SMALL - 300])
    plan = make_plan(spec(tmp_path / "a.parquet"))
    assert [(s.start, s.stop) for s in plan.shards] == [(0, 4), (4, 8), (8, 10), (10, 11), (11, 13)]
    assert [s.rows for s in plan.shards] == [4, 4, 2, 1, 2]
    assert plan.documents == 13


@pytest.mark.parametrize("size", [1, SMALL - 1, SMALL, 3 * SMALL // 2, 10 * SMALL + 7])
def test_a_plain_jsonl_is_cut_at_bytes(tmp_path: Path, small_shards: None, size: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE + b"x" * size)
    shards = make_plan(spec(tmp_path / "a.jsonl")).shards
    assert [s.start for s in shards] == [0, *(s.stop for s in shards[:-1])]
    assert shards[-1].stop == len(LINE) + size
    assert all(s.text_bytes <= 2 * SMALL for s in shards)


def test_a_compressed_file_is_one_shard(tmp_path: Path, small_shards: None) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINE * SMALL, 0))
    plan = make_plan(spec(tmp_path / "a.jsonl.gz"))
    assert len(plan.shards) == 1
    assert plan.documents is None


def test_small_files_share_shards(tmp_path: Path, small_shards: None) -> None:
    sizes = [10, 20, SMALL, 0, 900, 0, 900, 900, 900, 900, 5 * SMALL, 30]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number:02}.jsonl").write_bytes(LINE + b" " * (size - len(LINE)) + b"x" if size else b"")
    plan = make_plan(spec(tmp_path))
    shares = [(shard.file, shard.files) for shard in plan.shards]
    assert shares == [(0, 2), (2, 1), (4, 5), (9, 1), *[(10, 1)] * 5, (11, 1)]
    assert [file.relative for file in plan.files_of(plan.shards[2])] == [f"{n:02}.jsonl" for n in range(4, 9)]


def test_a_shard_has_a_limited_number_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_SHARD_FILES", 4)
    for number in range(9):
        write_groups(tmp_path / f"{number}.parquet", [10, 10])
    assert [(shard.files, shard.rows) for shard in make_plan(spec(tmp_path)).shards] == [(4, 8), (4, 8), (1, 2)]


def test_shard_sizes() -> None:
    assert (16 << 20) <= plans.SHARD_BYTES <= plans.SHARD_BYTES_MAX == (64 << 20)


def test_a_plan_is_deterministic_and_survives_storage(corpus_file: Path, tmp_path: Path) -> None:
    plan = make_plan(spec(corpus_file))
    assert make_plan(spec(corpus_file)) == plan
    storage = Storage(str(tmp_path / "workspace"))
    write_plan(storage, "plan.parquet", plan)
    assert read_plan(storage, "plan.parquet") == plan


def test_a_plan_is_the_same_however_many_files_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        (tmp_path / f"{number:02}.jsonl").write_bytes(LINE * (number % 7) * 40)
    monkeypatch.setattr(plans, "SHARD_BYTES", SMALL * 4)
    plan = make_plan(spec(tmp_path))
    assert {shard.files for shard in plan.shards} > {1}
    monkeypatch.setattr(plans, "_FILES_AHEAD", 3)
    monkeypatch.setattr(plans, "BATCH_ROWS", 2)
    assert make_plan(spec(tmp_path)) == plan
    assert plan.files_of(plan.shards[1])[0] == list(plan.files)[plan.shards[1].file]
    assert (plan.files[-1], plan.files[3:5], plan.files[::-1][0]) == (
        list(plan.files)[-1],
        (plan.files[3], plan.files[4]),
        plan.files[-1],
    )


def test_a_plan_of_another_format_is_refused(corpus_file: Path, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "workspace"))
    write_plan(storage, "plan.parquet", make_plan(spec(corpus_file)))
    with storage.open("plan.parquet") as source:
        table = pq.read_table(source)
    metadata = json.loads(table.schema.metadata[b"winnow"])
    for other in (metadata | {"format": 2}, {"files": []}):
        with storage.create("plan.parquet") as out:
            pq.write_table(table.replace_schema_metadata({"winnow": json.dumps(other)}), out)
        with pytest.raises(InputError, match=r"plan\.parquet: has format .*this version of Winnow reads format 1"):
            read_plan(storage, "plan.parquet")


def earlier(plan: Plan, **more: bool) -> dict[str, str]:
    """The metadata of a plan of earlier versions, which held the files."""
    return {"winnow": json.dumps({"format": 1, "files": [asdict(file) for file in plan.files]} | more)}


def test_a_plan_without_shards_of_several_files_is_read(corpus_file: Path, tmp_path: Path) -> None:
    storage, plan = Storage(str(tmp_path / "workspace")), make_plan(spec(corpus_file))
    write_plan(storage, "plan.parquet", plan)
    with storage.open("plan.parquet") as source:
        table = pq.read_table(source).drop_columns("files")
    with storage.create("plan.parquet") as out:
        pq.write_table(table.replace_schema_metadata(earlier(plan, decoded_ranges=True)), out)
    assert read_plan(storage, "plan.parquet") == plan


def test_a_plan_whose_compressed_files_are_whole_is_read(corpus_file: Path, tmp_path: Path) -> None:
    storage, plan = Storage(str(tmp_path / "workspace")), make_plan(spec(corpus_file))
    write_plan(storage, "plan.parquet", plan)
    with storage.open("plan.parquet") as source:
        table = pq.read_table(source)
    if plan.files[0].compression is not None:  # the range ended with the bytes of the file
        table = table.set_column(4, "stop", pa.array([plan.files[0].size]))
    with storage.create("plan.parquet") as out:
        pq.write_table(table.replace_schema_metadata(earlier(plan)), out)
    assert read_plan(storage, "plan.parquet") == plan


def test_digests_change_with_the_file_the_part_and_the_fields(tmp_path: Path, small_shards: None) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE + b"x" * 3 * SMALL)
    plan = make_plan(spec(path))
    digests = {shard.digest for shard in plan.shards}
    assert len(digests) == len(plan.shards) == 3
    assert make_plan(spec(path)).digest == plan.digest
    other_field = make_plan(spec(path, id_field="id"))
    os.utime(path, ns=(1, 1))
    touched = make_plan(spec(path))
    assert len({plan.digest, other_field.digest, touched.digest}) == 3
    assert digests.isdisjoint(shard.digest for other in (other_field, touched) for shard in other.shards)


def test_a_footer_changes_the_digest(tmp_path: Path) -> None:
    plans_made = []
    for value in ("1", "2"):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": ["a"]}).replace_schema_metadata({"key": value}), path)
        os.utime(path, ns=(1, 1))
        plans_made.append(make_plan(spec(path)))
    one, two = plans_made
    assert one.files[0].size == two.files[0].size
    assert one.digest != two.digest


def test_the_digest_of_a_plan_depends_on_the_order_of_its_shards() -> None:
    shards = tuple(Shard(i, 0, 1, i, i + 1, 1, 10, f"{i:064}") for i in range(3))
    assert Plan((), shards).digest != Plan((), shards[::-1]).digest
    assert Plan((), shards).text_bytes == 30


def test_a_changed_file_is_named(corpus_file: Path, tmp_path: Path) -> None:
    plan = make_plan(spec(corpus_file))
    check_unchanged(plan.files[0])
    before = corpus_file.stat().st_mtime_ns
    data = corpus_file.read_bytes()
    corpus_file.write_bytes(data + data)
    with pytest.raises(InputError, match=f"{corpus_file.name}: changed since it was planned"):
        check_unchanged(plan.files[0])
    corpus_file.write_bytes(data)
    os.utime(corpus_file, ns=(before, before))
    check_unchanged(plan.files[0])


def test_a_footer_that_changed_in_place_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_groups(path, [10])
    plan, before, data = make_plan(spec(path)), path.stat().st_mtime_ns, bytearray(path.read_bytes())
    data[-12] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before, before))
    with pytest.raises(InputError, match=r"a\.parquet: changed"):
        check_unchanged(plan.files[0])


def test_fineweb_columns_are_accepted(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "text": ["a"],
        "id": ["<urn:uuid:1>"],
        "dump": ["CC-MAIN-2013-20"],
        "url": ["http://example.com/a"],
        "file_path": ["s3://x"],
        "language": ["en"],
        "language_score": [0.9],
        "token_count": [1],
    }
    pq.write_table(pa.table(columns), tmp_path / "fineweb.parquet")
    columns |= {"date": ["2013-05-18T05:48:54Z"], "score": [3.5], "int_score": [4]}
    pq.write_table(pa.table(columns), tmp_path / "edu.parquet")
    assert make_plan(spec(tmp_path, id_field="id", domain_field="url")).documents == 2
    assert make_plan(spec(tmp_path, domain_field="dump")).documents == 2


def test_types_that_hold_text(tmp_path: Path) -> None:
    for number, kind in enumerate(
        (pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string()))
    ):
        pq.write_table(pa.table({"text": pa.array(["a"]).cast(kind)}), tmp_path / f"{number}.parquet")
    assert make_plan(spec(tmp_path)).documents == 4


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text_field": "txt"}, "a.parquet: no field 'txt' for corpus.text_field; there are text, n, parts"),
        ({"id_field": "uid"}, "no field 'uid' for corpus.id_field"),
        ({"domain_field": "source"}, "no field 'source' for corpus.domain_field"),
        ({"text_field": "n"}, "column 'n' is int64, not text"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, fields: dict[str, str], said: str) -> None:
    pq.write_table(pa.table({"text": ["a"], "n": [1], "parts": [["a"]]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=said):
        make_plan(spec(tmp_path / "a.parquet", **fields))


@pytest.mark.parametrize("keep", [0, 3, 50, -1, -9])
def test_a_truncated_parquet_is_named(tmp_path: Path, keep: int) -> None:
    write_groups(tmp_path / "a.parquet", [100])
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.parquet: not a whole Parquet file"):
        make_plan(spec(tmp_path / "a.parquet"))


def test_a_damaged_footer_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\xff" * 60 + (60).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet: its Parquet footer cannot be read"):
        make_plan(spec(tmp_path / "a.parquet"))


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    write_groups(tmp_path / "a.parquet", [])
    (tmp_path / "b.jsonl").touch()
    with pytest.raises(InputError, match="the corpus is empty"):
        make_plan(spec(tmp_path))
