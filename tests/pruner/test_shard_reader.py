"""Each row of a shard is read once, as a document or as a reject with a reason."""

import bz2
import gzip
import json
import lzma
import random
import tracemalloc
import uuid
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner.corpus import batches as batch_rules
from pruner.corpus import column_pieces, row_pieces, shard_reader
from pruner.corpus import lines as lines_module
from pruner.corpus import plan as plans
from pruner.corpus.batches import SCHEMA
from pruner.corpus.labels import host
from pruner.corpus.plan import make_plan
from pruner.corpus.shard_reader import read_shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import FORMATS, Rows, column, jsonl, zstd

Columns = tuple[str, ...] | None


def batches(path: Path | str, columns: Columns = (), **fields: str) -> list[pa.RecordBatch]:
    spec = CorpusSpec(paths=[str(path)], **fields)
    plan = make_plan(spec)
    found = [batch for shard in plan.shards for batch in read_shard(plan.files_of(shard), shard, spec, columns=columns)]
    for batch in found:
        batch.validate(full=True)
        assert batch.schema.names == SCHEMA.names + ["source"] * (columns != ())
        assert batch["n_bytes"].to_pylist() == [
            None if text is None else len(text.encode()) for text in batch["text"].to_pylist()
        ]
        assert batch["text"].is_null().equals(batch["reject"].is_valid())
    return found


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_rows_are_read_unchanged(corpus_file: Path, rows: Rows) -> None:
    found = batches(corpus_file, id_field="id", domain_field="domain")
    assert column(found, "text") == [row["text"] for row in rows]
    assert column(found, "id") == [row["id"] for row in rows]
    assert column(found, "domain") == [row["domain"] for row in rows]
    assert set(column(found, "reject")) == {None}


def test_rows_are_read_from_urls(s3_url: str, rows: Rows) -> None:
    for url in (s3_url, f"memory://{uuid.uuid4().hex}"):
        fs, path = fsspec.core.url_to_fs(url)
        for name, encode in FORMATS.items():
            fs.pipe_file(f"{path}/{name}", encode(rows))
            assert column(batches(f"{url}/{name}"), "text") == [row["text"] for row in rows]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 10, 37, 64, 1000])
def test_byte_ranges_cover_each_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: bytes
) -> None:
    monkeypatch.setattr(plans, "SHARD_BYTES", size)
    monkeypatch.setattr(lines_module, "_READ_BYTES", 16)
    lines = [json.dumps({"text": "x" * (i * 7 % 40) + "é"}).encode() for i in range(30)]
    path = write(tmp_path / "a.jsonl", (end or b"\n").join(lines) + end)
    assert column(batches(path), "text") == [json.loads(line)["text"] for line in lines]


CODECS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("size", [1, 10, 37, 400])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n \n\n\n" + b" " * 99])
def test_ranges_of_a_compressed_file_have_the_rows_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, size: int, end: bytes
) -> None:
    lines = [json.dumps({"text": "x" * (i * 7 % 40) + "é"}).encode() for i in range(30)]
    lines[4] = lines[15] = b" "
    lines[5] = b""
    path = write(tmp_path / f"a.jsonl{suffix}", CODECS[suffix](b"\n".join(lines) + end))
    whole = batches(path)
    monkeypatch.setattr(plans, "_RANGES_FROM", 1)
    monkeypatch.setattr(plans, "_RANGE_BYTES", size)
    monkeypatch.setattr(plans, "_RANGES_MAX", 200)
    monkeypatch.setattr(lines_module, "_READ_BYTES", 16)
    assert len(make_plan(CorpusSpec(paths=[str(path)])).shards) > 1
    ranges = batches(path)
    assert [column(ranges, name) for name in ("text", "reject")] == [column(whole, name) for name in ("text", "reject")]
    assert len(column(whole, "text")) == 30
    assert column(whole, "reject").count("unreadable row: blank line") == 3


@pytest.mark.parametrize("suffix", CODECS)
def test_a_blank_line_at_the_end_of_a_range_counts_where_a_document_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The last line feed comes in a stream of its own, which is read after the document."""
    text = b'{"text": "a"}\n' + b" " * 20 + b"\n" + b'{"text": "b"}'
    path = write(tmp_path / f"a.jsonl{suffix}", CODECS[suffix](text) + CODECS[suffix](b"\n"))
    spec = CorpusSpec(paths=[str(path)])
    (shard,) = make_plan(spec).shards
    parts = [replace(shard, stop=20), replace(shard, start=20)]
    found = [batch for part in parts for batch in read_shard(make_plan(spec).files, part, spec)]
    assert column(found, "text") == ["a", None, "b"]


def test_a_compressed_file_of_over_256_mb_of_text_is_several_shards(tmp_path: Path) -> None:
    texts = 2 * random.Random(0).randbytes(4 << 20).hex().encode()  # longer than the window of the codec
    with pa.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as out:
        for number in range(1_800):
            start = number * 150_000 % (8 << 20)
            out.write(b'{"id": %d, "text": "%s"}\n' % (number, texts[start : start + 150_000]))
    spec = CorpusSpec(paths=[str(tmp_path)], id_field="id")
    plan = make_plan(spec)
    shards = [list(read_shard(plan.files_of(shard), shard, spec)) for shard in plan.shards]
    ids = [column(found, "id") for found in shards]
    assert [name for some in ids for name in some] == [str(number) for number in range(1_800)]
    assert len(shards) > 1
    assert all(len(some) > 300 for some in ids)


@pytest.mark.parametrize("decoded", [1, 3, 1000])
def test_batches_depend_on_nothing_but_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: int) -> None:
    monkeypatch.setattr(batch_rules, "BATCH_ROWS", 10)
    monkeypatch.setattr(batch_rules, "BATCH_BYTES", 1000)
    monkeypatch.setattr(row_pieces, "PIECE_ROWS", decoded)
    monkeypatch.setattr(shard_reader, "_DECODE_ROWS", decoded)
    rows = [{"text": "x" * n} for n in [1] * 25 + [400] * 7 + [5000, 1]]
    sizes = {name: [len(b) for b in batches(write(tmp_path / name, make(rows)))] for name, make in FORMATS.items()}
    assert all(found == [10, 10, 8, 3, 2, 1] for found in sizes.values())


def test_many_members_and_frames_are_one_file(tmp_path: Path) -> None:
    one, two = jsonl([{"text": "a"}]), jsonl([{"text": "b"}])
    gz = write(tmp_path / "a.jsonl.gz", gzip.compress(one) + gzip.compress(two))
    zst = write(tmp_path / "a.jsonl.zst", zstd(one) + zstd(two))
    assert column(batches(gz), "text") == column(batches(zst), "text") == ["a", "b"]


def test_small_files_are_read_together(tmp_path: Path, rows: Rows) -> None:
    for number, name in enumerate([*FORMATS, "empty.jsonl"]):
        write(tmp_path / f"{number}-{name}", FORMATS[name](rows) if name in FORMATS else b"")
    spec = CorpusSpec(paths=[str(tmp_path)], id_field="id")
    plan = make_plan(spec)
    (shard,) = plan.shards
    for first in (0, 5, len(rows), 2 * len(rows) + 7, 4 * len(rows)):
        found = list(read_shard(plan.files_of(shard), shard, spec, first_row=first))
        assert column(found, "text") == [row["text"] for row in rows * 4][first:]
        assert column(found, "file") == [n // len(rows) for n in range(4 * len(rows))][first:]
        assert column(found, "row") == [n % len(rows) for n in range(4 * len(rows))][first:]


def test_files_of_other_columns_end_a_batch(tmp_path: Path) -> None:
    for number, score in enumerate((1, 2.5, 3.5)):
        pq.write_table(pa.table({"text": ["a"], "score": [score]}), tmp_path / f"{number}.parquet")
    found = batches(tmp_path, columns=None)
    assert [batch["source"].to_pylist() for batch in found] == [
        [{"text": "a", "score": 1}],
        [{"text": "a", "score": 2.5}, {"text": "a", "score": 3.5}],
    ]


BAD_LINES: list[tuple[bytes, str]] = [
    (b'{"text": ""}', "empty text"),
    (b'{"text": null}', "not text: null"),
    (b'{"text": 5}', "not text: int"),
    (b'{"text": ["a"]}', "not text: list"),
    (b'{"txt": "a"}', "not text: no field 'text'"),
    (b'["text"]', "unreadable row: not a JSON object"),
    (b'"text"', "unreadable row: not a JSON object"),
    (b"", "unreadable row: blank line"),
    (b"  ", "unreadable row: blank line"),
    (b'{"text": "a"', "unreadable row: invalid JSON"),
    (b'{"text": "a\xff"}', "unreadable row: invalid UTF-8"),
    (b'{"text": "a\x00b"}', "unreadable row: invalid JSON"),
    (b"[" * 100_000, "unreadable row: invalid JSON"),
]


def test_each_bad_line_is_a_reject_and_its_neighbours_are_not(tmp_path: Path) -> None:
    lines = b"".join(line + b'\n{"text": "good"}\n' for line, _ in BAD_LINES)
    for path in (write(tmp_path / "a.jsonl", lines), write(tmp_path / "a.jsonl.gz", gzip.compress(lines))):
        found = batches(path)
        assert column(found, "text")[1::2] == ["good"] * len(BAD_LINES)
        for (line, reason), text, reject in zip(
            BAD_LINES, column(found, "text")[::2], column(found, "reject")[::2], strict=True
        ):
            assert text is None
            assert reject.startswith(reason), line


def test_a_byte_order_mark_is_removed(tmp_path: Path) -> None:
    assert column(batches(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n')), "text") == ["a"]


def test_bad_values_in_parquet_are_rejects(tmp_path: Path) -> None:
    texts = pa.array([b"good", None, b"", b"bad \xff", b"nul \x00"], pa.binary())
    binary, string = tmp_path / "binary.parquet", tmp_path / "string.parquet"
    pq.write_table(pa.table({"text": texts}), binary)
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())}), string)
    for path in (binary, string):
        found = batches(path)
        assert column(found, "text") == ["good", None, None, None, "nul \x00"]
        assert column(found, "reject") == [None, "not text: null", "empty text", "unreadable row: invalid UTF-8", None]


def test_labels_become_strings_and_null_stays_null(tmp_path: Path) -> None:
    values = ["a", 7, 1.5, True, None]
    path = write(tmp_path / "a.jsonl", jsonl([{"text": "x", "id": v, "kind": v} for v in values] + [{"text": "x"}]))
    found = batches(path, id_field="id", domain_field="kind")
    assert column(found, "id") == column(found, "domain") == ["a", "7", "1.5", "True", None, None]


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        (pa.array([0, None], pa.timestamp("s")), ["1970-01-01 00:00:00", None]),
        (pa.array([10**18 + 1], pa.timestamp("ns")), ["2001-09-09 01:46:40.000000001"]),
        (pa.array([10**18], pa.timestamp("ns")), ["2001-09-09 01:46:40"]),
        (pa.array([3 * 10**17], pa.timestamp("us")), ["11476-08-15 05:20:00.000000"]),
        (pa.array([0], pa.timestamp("ms", "Nowhere/Else")), ["1970-01-01 00:00:00.000Z"]),
        (pa.array([3 * 10**6], pa.date32()), ["10183-09-21"]),
        (pa.array([1], pa.time64("ns")), ["00:00:00.000000001"]),
    ],
)
def test_every_time_of_parquet_becomes_a_label(tmp_path: Path, times: pa.Array, labels: list[str | None]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * len(times), "time": times}), path)
    assert column(batches(path, id_field="time"), "id") == labels


def test_json_as_python_writes_it_is_read(tmp_path: Path) -> None:
    values = [float("nan"), float("-inf"), 1 << 64, -(1 << 70), "half \ud83d", {"deep": [float("inf")]}]
    values += [{"large": 1 << 70, "half": "\ud83d"}]
    rows = [{"text": "a cut \ud83d emoji \U0001f600", "id": value, "other": value} for value in values]
    path = write(
        tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode() + b'{"text":"b","v":1e400}'
    )
    found = batches(path, id_field="id")
    assert column(found, "text") == ["a cut ? emoji \U0001f600"] * len(rows) + ["b"]
    assert column(found, "id") == [
        *("nan", "-inf", str(1 << 64), str(-(1 << 70)), "half ?", '{"deep":[null]}'),
        f'{{"large":{1 << 70},"half":"?"}}',
        None,
    ]
    assert not any(column(found, "reject"))


def test_a_url_is_reduced_to_its_host(tmp_path: Path) -> None:
    values = ["https://User@WWW.Example.com:80/a?b#c", "http://日本.jp/x", "no url", None, "http://[bad/"]
    values += [" http://r.com ", "http://i.com\\x"]
    path = write(tmp_path / "a.jsonl", jsonl([{"text": "x", "url": value} for value in values]))
    assert column(batches(path, domain_field="url"), "domain") == [
        *("www.example.com", "日本.jp", None, None, None),
        *("r.com", None),
    ]
    assert column(batches(path, id_field="url"), "id") == values


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_truncated_stream_is_named(tmp_path: Path, rows: Rows, name: str) -> None:
    data = FORMATS[name](rows)
    for keep in (len(data) // 2, len(data) - 4):
        with pytest.raises(InputError, match=f"{name}: cannot be read .*runcated"):
            batches(write(tmp_path / name, data[:keep]))


def test_a_damaged_page_is_named(tmp_path: Path, rows: Rows) -> None:
    data = bytearray(FORMATS["rows.parquet"](rows))
    data[4:400] = b"\xff" * 396
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read as Parquet"):
        batches(write(tmp_path / "a.parquet", bytes(data)))


def test_a_file_that_changes_while_it_is_read_is_named(corpus_file: Path) -> None:
    spec = CorpusSpec(paths=[str(corpus_file)])
    plan = make_plan(spec)
    reading = read_shard(plan.files, plan.shards[0], spec)
    corpus_file.write_bytes(corpus_file.read_bytes() + b"\n")
    with pytest.raises(InputError, match=f"{corpus_file.name}: changed"):
        list(reading)


def test_a_document_of_20_mb_is_a_document(tmp_path: Path) -> None:
    text = "word " * 4_000_000
    assert column(batches(write(tmp_path / "a.jsonl", jsonl([{"text": text}, {"text": "b"}]))), "text") == [text, "b"]


def test_a_line_too_long_is_a_reject_and_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "DOCUMENT_BYTES_MAX", 1 << 20)
    path = tmp_path / "a.jsonl"
    with path.open("wb") as out:
        out.write(b'{"text": "a"}\n{"text": "')
        for _ in range(64):
            out.write(b"x" * (1 << 20))
        out.write(b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    found = batches(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert column(found, "text") == ["a", None, "b"]
    assert column(found, "reject")[1] == "unreadable row: longer than 64 MiB"
    assert peak < 16 << 20


def test_rows_before_the_first_row_are_skipped(corpus_file: Path, rows: Rows) -> None:
    spec = CorpusSpec(paths=[str(corpus_file)])
    plan = make_plan(spec)
    for first in (0, 1, 6, 7, 20, len(rows) - 1, len(rows), len(rows) + 5):
        found = read_shard(plan.files, plan.shards[0], spec, first_row=first)
        assert column(found, "text") == [row["text"] for row in rows[first:]]


def test_named_columns_of_the_file_are_added(tmp_path: Path) -> None:
    rows = [{"text": "a", "score": 2.5, "text2": "é"}, {"text": None, "score": None}, {"text": "b", "score": 3}]
    path = write(tmp_path / "a.jsonl", jsonl(rows) + b"broken\n")
    assert column(batches(path, columns=("score", "text2", "gone")), "source") == [
        {"score": "2.5", "text2": '"é"', "gone": None},
        {"score": None, "text2": None, "gone": None},
        {"score": "3", "text2": None, "gone": None},
        {"score": None, "text2": None, "gone": None},
    ]
    table = pa.table({"text": ["a", None], "score": [2.5, None], "tags": [["x"], []]})
    pq.write_table(table, tmp_path / "a.parquet")
    (found,) = batches(tmp_path / "a.parquet", columns=("score", "text", "gone"))
    assert found["source"].to_pylist() == [
        {"score": 2.5, "text": "a", "gone": None},
        {"score": None, "text": None, "gone": None},
    ]
    (found,) = batches(tmp_path / "a.parquet", columns=None)
    assert found["source"].to_pylist() == table.to_pylist()
    assert found["source"].type.field("tags").type == table.schema.field("tags").type


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_all_columns_of_json_lines_are_the_bytes_of_the_line(tmp_path: Path, end: bytes) -> None:
    lines = [b'\xef\xbb\xbf{"text": "a"}', b'{"text" : "b"}\r', b"", b"\xff"]
    for name, encode in (("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress)):
        found = batches(write(tmp_path / name, encode(b"\n".join(lines) + end)), columns=None)
        assert [row["line"] for row in column(found, "source")] == lines
        assert column(found, "text") == ["a", "b", None, None]


@pytest.mark.parametrize(("image", "rows"), [(100, 9), (400, 2), (999, 1), (5000, 1)])
def test_source_columns_bound_the_size_of_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: int, rows: int
) -> None:
    monkeypatch.setattr(batch_rules, "_BATCH_SOURCE_BYTES", 1000)
    pq.write_table(pa.table({"text": ["x"] * 20, "image": [bytes(image)] * 20}), tmp_path / "a.parquet")
    found = batches(tmp_path / "a.parquet", columns=("image",))
    assert column(found, "text") == ["x"] * 20
    assert len(found[0]) == rows
    assert all(len(batch) == rows for batch in found[:-1])


def test_dictionary_encoded_columns_are_read(tmp_path: Path) -> None:
    kind = pa.dictionary(pa.int32(), pa.string())
    texts = ["a" * (3 << 20), None, "b", "", "a" * (3 << 20)] * 10
    table = pa.table({"text": pa.array(texts, kind), "kind": pa.array(["x", "y", None, "x", "z"] * 10, kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=20)
    found = batches(tmp_path / "a.parquet", columns=("kind",), domain_field="kind")
    assert column(found, "text") == [text or None for text in texts]
    kinds = ["x", "y", None, "x", "z"] * 10
    assert column(found, "domain") == kinds
    assert [row["kind"] for row in column(found, "source")] == kinds


URLS = st.text(st.sampled_from("htps:/[]@.aZ09-_?#%\\ \té\n"), max_size=12)


@given(st.lists((URLS.map("http://".__add__) | URLS | st.just("https://A.b/c")), min_size=1, max_size=20))
def test_hosts_are_those_of_urlsplit(urls: list[str]) -> None:
    def expected(url: str) -> str | None:
        try:
            found = urlsplit(url.strip()).hostname
            return found if found and found.split() == [found] and "\\" not in found else None
        except ValueError:
            return None

    hosts = [expected(url) for url in urls]
    assert [host(url) for url in urls] == hosts
    assert column_pieces._hosts(pa.array(urls, pa.large_binary()))[0].to_pylist() == hosts
