"""Every row of a shard is read once, as a document or as a reject with its reason."""

import gzip
import json
import tracemalloc
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus import plan as plans
from pruner.corpus import shard_reader as read
from pruner.corpus.plan import make_plan
from pruner.corpus.shard_reader import Block, read_shard
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import FORMATS, Rows, jsonl, zstd


def blocks(path: Path | str, **fields: str) -> list[Block]:
    spec = CorpusSpec(paths=[str(path)], **fields)
    plan = make_plan(spec)
    return [block for shard in plan.shards for block in read_shard(plan, shard, spec)]


def column(found: list[Block], name: str) -> list[Any]:
    return [value for block in found for value in getattr(block, name)]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_rows_are_read_as_they_are(corpus_file: Path, rows: Rows) -> None:
    found = blocks(corpus_file, id_field="id", domain_field="domain")
    assert column(found, "texts") == [row["text"] for row in rows]
    assert column(found, "ids") == [row["id"] for row in rows]
    assert column(found, "domains") == [row["domain"] for row in rows]
    assert set(column(found, "rejects")) == {None}


def test_rows_are_read_from_urls(s3_url: str, rows: Rows) -> None:
    for url in (s3_url, f"memory://{uuid.uuid4().hex}"):
        fs, path = fsspec.core.url_to_fs(url)
        for name, encode in FORMATS.items():
            fs.pipe_file(f"{path}/{name}", encode(rows))
            assert column(blocks(f"{url}/{name}"), "texts") == [row["text"] for row in rows]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 10, 37, 64, 1000])
def test_byte_ranges_cover_each_line_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: bytes
) -> None:
    monkeypatch.setattr(plans, "SHARD_BYTES", size)
    monkeypatch.setattr(read, "_CHUNK", 16)
    lines = [json.dumps({"text": "x" * (i * 7 % 40) + "é"}).encode() for i in range(30)]
    path = write(tmp_path / "a.jsonl", (end or b"\n").join(lines) + end)
    assert column(blocks(path), "texts") == [json.loads(line)["text"] for line in lines]


def test_blocks_are_bounded_and_depend_on_the_shard_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "BLOCK_ROWS", 10)
    monkeypatch.setattr(read, "BLOCK_CHARACTERS", 1000)
    rows = [{"text": "x" * n} for n in [1] * 25 + [400] * 7 + [5000, 1]]
    sizes = {name: [b.rows for b in blocks(write(tmp_path / name, make(rows)))] for name, make in FORMATS.items()}
    assert all(found == [10, 10, 8, 3, 2, 1] for found in sizes.values())


def test_many_members_and_frames_are_one_file(tmp_path: Path) -> None:
    one, two = jsonl([{"text": "a"}]), jsonl([{"text": "b"}])
    gz = write(tmp_path / "a.jsonl.gz", gzip.compress(one) + gzip.compress(two))
    zst = write(tmp_path / "a.jsonl.zst", zstd(one) + zstd(two))
    assert column(blocks(gz), "texts") == column(blocks(zst), "texts") == ["a", "b"]


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
        found = blocks(path)
        assert column(found, "texts")[1::2] == ["good"] * len(BAD_LINES)
        for (line, reason), text, reject in zip(
            BAD_LINES, column(found, "texts")[::2], column(found, "rejects")[::2], strict=True
        ):
            assert text is None
            assert reject.startswith(reason), line


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert column(blocks(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n')), "texts") == ["a"]


def test_bad_values_in_parquet_are_rejects(tmp_path: Path) -> None:
    texts = pa.array([b"good", None, b"", b"bad \xff", b"nul \x00"], pa.binary())
    binary, string = tmp_path / "binary.parquet", tmp_path / "string.parquet"
    pq.write_table(pa.table({"text": texts}), binary)
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())}), string)
    for path in (binary, string):
        found = blocks(path)
        assert column(found, "texts") == ["good", None, None, None, "nul \x00"]
        assert column(found, "rejects") == [None, "not text: null", "empty text", "unreadable row: invalid UTF-8", None]


def test_labels_become_strings_and_null_stays_null(tmp_path: Path) -> None:
    values = ["a", 7, 1.5, True, None]
    path = write(tmp_path / "a.jsonl", jsonl([{"text": "x", "id": v, "kind": v} for v in values] + [{"text": "x"}]))
    found = blocks(path, id_field="id", domain_field="kind")
    assert column(found, "ids") == column(found, "domains") == ["a", "7", "1.5", "True", None, None]


@pytest.mark.parametrize(
    ("times", "labels"),
    [
        (pa.array([0, None], pa.timestamp("s")), ["1970-01-01 00:00:00", None]),
        (pa.array([10**18 + 1], pa.timestamp("ns")), ["2001-09-09 01:46:40.000000001"]),
        (pa.array([3 * 10**17], pa.timestamp("us")), ["11476-08-15 05:20:00.000000"]),
        (pa.array([0], pa.timestamp("ms", "Nowhere/Else")), ["1970-01-01 00:00:00.000Z"]),
        (pa.array([3 * 10**6], pa.date32()), ["10183-09-21"]),
        (pa.array([1], pa.time64("ns")), ["00:00:00.000000001"]),
    ],
)
def test_a_label_is_any_time_that_parquet_has(tmp_path: Path, times: pa.Array, labels: list[str | None]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"] * len(times), "time": times}), path)
    assert column(blocks(path, id_field="time"), "ids") == labels


def test_what_python_writes_as_json_is_read(tmp_path: Path) -> None:
    values = [float("nan"), float("-inf"), 1 << 64, -(1 << 70), "half \ud83d", {"deep": [float("inf")]}]
    values += [{"large": 1 << 70, "half": "\ud83d"}]
    rows = [{"text": "a cut \ud83d emoji \U0001f600", "id": value, "other": value} for value in values]
    path = write(
        tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode() + b'{"text":"b","v":1e400}'
    )
    found = blocks(path, id_field="id")
    assert column(found, "texts") == ["a cut ? emoji \U0001f600"] * len(rows) + ["b"]
    assert column(found, "ids") == [
        *("nan", "-inf", str(1 << 64), str(-(1 << 70)), "half ?", '{"deep":[null]}'),
        f'{{"large":{1 << 70},"half":"?"}}',
        None,
    ]
    assert not any(column(found, "rejects"))


def test_a_url_is_reduced_to_its_host(tmp_path: Path) -> None:
    values = ["https://User@WWW.Example.com:80/a?b#c", "http://日本.jp/x", "no url", None, "http://[bad/"]
    path = write(tmp_path / "a.jsonl", jsonl([{"text": "x", "url": value} for value in values]))
    assert column(blocks(path, domain_field="url"), "domains") == ["www.example.com", "日本.jp", None, None, None]
    assert column(blocks(path, id_field="url"), "ids") == values


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl.zst"])
def test_a_truncated_stream_is_named(tmp_path: Path, rows: Rows, name: str) -> None:
    data = FORMATS[name](rows)
    for keep in (len(data) // 2, len(data) - 4):
        with pytest.raises(InputError, match=f"{name}: cannot be read as .* lines"):
            blocks(write(tmp_path / name, data[:keep]))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_stream_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: cannot be read"):
        blocks(write(tmp_path / name, b'{"text": "plain"}\n' * 10))


def test_a_damaged_page_is_named(tmp_path: Path, rows: Rows) -> None:
    data = bytearray(FORMATS["rows.parquet"](rows))
    data[4:400] = b"\xff" * 396
    with pytest.raises(InputError, match=r"a\.parquet: cannot be read as Parquet"):
        blocks(write(tmp_path / "a.parquet", bytes(data)))


def test_a_file_that_changes_while_it_is_read_is_named(corpus_file: Path) -> None:
    spec = CorpusSpec(paths=[str(corpus_file)])
    plan = make_plan(spec)
    reading = read_shard(plan, plan.shards[0], spec)
    corpus_file.write_bytes(corpus_file.read_bytes() + b"\n")
    with pytest.raises(InputError, match=f"{corpus_file.name}: changed"):
        list(reading)


def test_a_document_of_20_mb_is_a_document(tmp_path: Path) -> None:
    text = "word " * 4_000_000
    assert column(blocks(write(tmp_path / "a.jsonl", jsonl([{"text": text}, {"text": "b"}]))), "texts") == [text, "b"]


def test_a_line_too_long_is_a_reject_and_is_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "DOCUMENT_BYTES_MAX", 1 << 20)
    path = tmp_path / "a.jsonl"
    with path.open("wb") as out:
        out.write(b'{"text": "a"}\n{"text": "')
        for _ in range(64):
            out.write(b"x" * (1 << 20))
        out.write(b'"}\n{"text": "b"}\n')
    tracemalloc.start()
    found = blocks(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert column(found, "texts") == ["a", None, "b"]
    assert column(found, "rejects")[1] == "unreadable row: longer than 1 MiB"
    assert peak < 16 << 20
