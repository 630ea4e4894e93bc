"""Every format and codec gives the same rows, whatever the file is called."""

import bz2
import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pytest

from pruner.corpus.plan import make_plan
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import Rows, column, jsonl, parquet, zstd
from tests.pruner.test_shard_reader import batches, write


def identity(data: bytes) -> bytes:
    return data


def arrow(rows: Rows, new: Any, **options: Any) -> bytes:
    sink, table = pa.BufferOutputStream(), pa.Table.from_pylist(rows)
    with new(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table, max_chunksize=7)
    return bytes(sink.getvalue().to_pybytes())


def feather_bytes(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    feather.write_feather(pa.Table.from_pylist(rows), sink, chunksize=11)
    return bytes(sink.getvalue().to_pybytes())


def table(rows: Rows, delimiter: str = ",") -> bytes:
    def cell(value: object) -> str:
        text = "" if value is None else str(value)
        return '"{}"'.format(text.replace('"', '""')) if set(text) & {delimiter, '"', "\r", "\n"} else text

    # By hand: the csv module of Python 3.10 writes no NUL.
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    return "".join(delimiter.join(map(cell, line)) + "\r\n" for line in lines).encode()


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": identity,
    ".gz": gzip.compress,
    ".zst": zstd,
    ".zstd": zstd,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
TEXT: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": jsonl,
    ".json": jsonl,
    ".ndjson": jsonl,
    ".csv": table,
    ".tsv": lambda rows: table(rows, "\t"),
}
BINARY: dict[str, Callable[[Rows], bytes]] = {
    ".parquet": parquet,
    ".arrow": lambda rows: arrow(rows, pa.ipc.new_file),
    "-stream.arrow": lambda rows: arrow(rows, pa.ipc.new_stream),
    "-lz4.arrow": lambda rows: arrow(rows, pa.ipc.new_stream, compression="lz4"),
    ".feather": feather_bytes,
}


def check(path: Path, rows: Rows) -> None:
    found = batches(path, id_field="id", domain_field="domain")
    for name in ("text", "id", "domain"):
        assert column(found, name) == [row[name] for row in rows]
    assert column(found, "row") == list(range(len(rows)))
    assert not any(column(found, "reject"))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("kind", TEXT)
def test_text_formats_with_each_codec(tmp_path: Path, rows: Rows, kind: str, codec: str) -> None:
    if kind in (".csv", ".tsv") and sys.version_info < (3, 11):  # its csv module reads no NUL
        rows = [row | {"text": row["text"].replace("\0", "")} for row in rows]
    data = CODECS[codec](TEXT[kind](rows))
    for name in (f"a{kind}{codec}", f"A{kind}{codec}".upper()):
        check(write(tmp_path / name, data), rows)
    if kind.startswith(".j") or kind == ".ndjson":
        for name in ("part-00000", f"a.of-the-{kind[1:]}.unknown", "b.jsonl", "c.jsonl.gz"):
            check(write(tmp_path / name, data), rows)


@pytest.mark.parametrize("kind", BINARY)
def test_binary_formats(tmp_path: Path, rows: Rows, kind: str) -> None:
    data = BINARY[kind](rows)
    for name in (f"a{kind}", f"A{kind}".upper(), "part-00000", "a.unknown"):
        check(write(tmp_path / name, data), rows)


@pytest.mark.parametrize("kind", ["a.arrow", "b-stream.arrow"])
def test_arrow_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Rows, kind: str) -> None:
    monkeypatch.setattr("pruner.corpus.plan.SHARD_BYTES", 2000)
    monkeypatch.setattr("pruner.corpus.plan.SHARD_BYTES_MAX", 4000)
    words = pa.table({"text": [row["text"] for row in rows], "domain": ["ab"[i % 2] for i in range(len(rows))]})
    words = words.set_column(1, "domain", words["domain"].dictionary_encode())
    sink = pa.BufferOutputStream()
    new = pa.ipc.new_stream if "stream" in kind else pa.ipc.new_file
    with new(sink, words.schema) as out:
        out.write_table(words, max_chunksize=7)
    path = write(tmp_path / kind, sink.getvalue().to_pybytes())
    assert len(make_plan(CorpusSpec(paths=[str(path)])).shards) > 2
    found = batches(path, domain_field="domain")
    assert column(found, "text") == [row["text"] for row in rows]
    assert column(found, "domain") == words["domain"].to_pylist()


def test_a_table_of_both_kinds_of_rows_has_one_plan(tmp_path: Path, rows: Rows) -> None:
    for number, make in enumerate((*TEXT.values(), *BINARY.values())):
        write(tmp_path / f"{number}{[*TEXT, *BINARY][number]}", make(rows[:3]))
    assert column(batches(tmp_path, id_field="id"), "id") == [row["id"] for row in rows[:3]] * 10


# -- codecs
@pytest.mark.parametrize("codec", [".gz", ".zst", ".bz2", ".xz"])
def test_many_streams_are_one_file(tmp_path: Path, codec: str) -> None:
    encode = CODECS[codec]
    lines = jsonl([{"text": f"line {i} " + "x" * 5000} for i in range(400)])
    pieces = [lines[i : i + 99_991] for i in range(0, len(lines), 99_991)]
    data = b"".join(encode(piece) for piece in [b"", *pieces, b""])
    assert len(column(batches(write(tmp_path / f"a.jsonl{codec}", data)), "text")) == 400


@pytest.mark.parametrize("codec", [".gz", ".xz"])
@pytest.mark.parametrize("zeros", [1, 512, 3 << 20])
def test_zeros_after_the_last_stream_are_ignored(tmp_path: Path, codec: str, zeros: int) -> None:
    data = CODECS[codec](jsonl([{"text": "a"}])) + bytes(zeros)
    assert column(batches(write(tmp_path / f"a.jsonl{codec}", data)), "text") == ["a"]


@pytest.mark.parametrize("codec", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("after", [b"garbage", bytes(9) + b"x", b'{"text": "lost"}\n'])
def test_other_bytes_after_the_last_stream_are_an_error(tmp_path: Path, codec: str, after: bytes) -> None:
    path = write(tmp_path / f"a.jsonl{codec}", CODECS[codec](jsonl([{"text": "a"}])) + after)
    with pytest.raises(InputError, match=rf"a\.jsonl{codec}: cannot be read"):
        batches(path)


@pytest.mark.parametrize("codec", [".gz", ".zst", ".bz2", ".xz"])
@pytest.mark.parametrize("cut", [1, 4, 9, 40])
def test_a_truncated_stream_is_an_error(tmp_path: Path, codec: str, cut: int) -> None:
    data = CODECS[codec](jsonl([{"text": f"{i} " * 50} for i in range(500)]))[:-cut]
    with pytest.raises(InputError, match=rf"a\.jsonl{codec}: cannot be read"):
        batches(write(tmp_path / f"a.jsonl{codec}", data))


def test_zstd_with_a_long_window_says_what_to_do(tmp_path: Path) -> None:
    line = jsonl([{"text": "a"}])
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + ((len(line) << 3) | 1).to_bytes(3, "little") + line
    with pytest.raises(InputError, match=r"a\.jsonl\.zst: .*compress it again without that: zstd -dc --long=31"):
        batches(write(tmp_path / "a.jsonl.zst", frame))


# -- JSON lines
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n\n", b"\n \r\n\t\n", b"\n" * 70_000, b""])
def test_blank_lines_at_the_end_are_no_documents(tmp_path: Path, codec: str, end: bytes) -> None:
    data = b'{"text": "a"}\r\n\r\n{"text": "b"}' + end
    found = batches(write(tmp_path / f"a.jsonl{codec}", CODECS[codec](data)))
    assert column(found, "text") == ["a", None, "b"]
    assert column(found, "reject") == [None, "unreadable row: blank line", None]


@pytest.mark.parametrize(("name", "head"), [("jsonl", b""), ("csv", b"text\n")])
def test_blank_lines_at_the_end_of_a_file_that_shares_a_shard_are_no_documents(
    tmp_path: Path, name: str, head: bytes
) -> None:
    line = b"a\n" if head else b'{"text": "a"}\n'
    for number in range(3):
        write(tmp_path / f"{number}.{name}", head + line + b" \r\n\n" * number)
    assert len(make_plan(CorpusSpec(paths=(str(tmp_path),))).shards) == 1
    assert column(batches(tmp_path), "reject") == [None] * 3


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "part-0"])
@pytest.mark.parametrize(
    "value",
    [
        json.dumps([{"text": "a"}, {"text": "b"}]),
        json.dumps([{"text": "a"}, {"text": "b"}], indent=1),
        json.dumps({"data": [{"text": "a"}]}, indent=2),
        '[\n{"text": "a"},\n{"text": "b"}\n]\n',
        '[{"text": "a"},\n{"text": "b"}]\n',
    ],
)
def test_one_json_value_is_an_error_with_a_hint(tmp_path: Path, name: str, value: str) -> None:
    encode = gzip.compress if name.endswith(".gz") else identity
    with pytest.raises(InputError, match=rf"{name}: (.*one object a line|text that is not JSON lines)"):
        batches(write(tmp_path / name, encode(value.encode())))


def test_lines_of_which_none_is_json_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl: none of its first 1,000 lines is a JSON object"):
        batches(write(tmp_path / "a.jsonl", b"plain text\n" * 10))


# -- CSV
def test_csv_quotes_line_feeds_and_encodings(tmp_path: Path) -> None:
    data = (
        b'\xef\xbb\xbftext,id,n\r\n"a ""quoted"" one\r\nand, more",1,x\r\n'
        b'short,2\r\n\r\n"bad \xff",\xfe\xff,x\r\nlast,007,x,,\r\n,5,x\r\n\r\n'
    )
    for name, encode in (("a.csv", identity), ("a.csv.gz", gzip.compress)):
        found = batches(write(tmp_path / name, encode(data)), id_field="id", columns=("n",))
        assert column(found, "text") == ['a "quoted" one\r\nand, more', None, None, None, "last", None]
        assert column(found, "reject") == [
            None,
            "unreadable row: 2 values where the header has 3",
            "unreadable row: blank line",
            "unreadable row: invalid UTF-8",
            None,
            "not text: null",
        ]
        assert column(found, "id") == ["1", None, None, "0xfeff", "007", "5"]


def test_csv_lines_are_given_as_they_are(tmp_path: Path) -> None:
    found = batches(write(tmp_path / "a.csv", b'text,id\n"a\nb",1\r\nc,2\n'), columns=None)
    assert [row["line"] for row in column(found, "source")] == [b'"a\nb",1\r', b"c,2"]


def test_equal_column_names_of_csv_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.csv: has several columns 'text'"):
        batches(write(tmp_path / "a.csv", b"text,text\na,b\n"))


# -- content
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x00" * 257 + b"ustar" + b"\x00" * 300, "a tar archive"),
        (b"FEA1" + bytes(100), "Feather version 1"),
        ("text".encode("utf-16"), "UTF-16 text"),
        (b"\x01\x02\x00\xff" * 100, "data of an unknown kind"),
        (gzip.compress(b"plain text, of a web crawl"), "text that is not JSON lines"),
    ],
)
def test_data_of_other_kinds_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    write(tmp_path / "good.jsonl", jsonl([{"text": "a"}]))
    write(tmp_path / "other", data)
    with pytest.raises(InputError, match=rf"other: {said}; convert it to JSON lines or Parquet, or exclude it"):
        batches(tmp_path)
    spec = CorpusSpec(paths=[str(tmp_path)], exclude=["other"])
    assert len(make_plan(spec).files) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz", "a.parquet", "a.arrow", "part-0"])
def test_a_pointer_of_git_lfs_says_how_to_get_the_file(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, b"version https://git-lfs.github.com/spec/v1\noid sha256:0ab1\nsize 1234\n")
    with pytest.raises(InputError, match=rf"{name}: a Git LFS pointer, .* `git lfs pull`"):
        make_plan(CorpusSpec(paths=[str(tmp_path)]))


def test_plain_text_is_left_out_unless_it_is_named(tmp_path: Path) -> None:
    write(tmp_path / "good.jsonl", jsonl([{"text": "a"}]))
    write(tmp_path / "d.txt", b"A note.\n")
    write(tmp_path / "lines.txt", jsonl([{"text": "b"}]))
    plan = make_plan(CorpusSpec(paths=[str(tmp_path)]))
    assert [file.relative for file in plan.files] == ["good.jsonl", "lines.txt"]
    assert [(left.reason, left.files) for left in plan.left_out] == [("text that is not JSON lines", 1)]
    with pytest.raises(InputError, match=r"d\.txt: text that is not JSON lines"):
        make_plan(CorpusSpec(paths=[str(tmp_path / "d.txt")]))


@pytest.mark.parametrize("kind", BINARY)
def test_a_binary_file_that_was_compressed_as_a_whole_is_named(tmp_path: Path, rows: Rows, kind: str) -> None:
    with pytest.raises(InputError, match=f"a{kind}.gz: a (parquet|arrow) file that was compressed as a whole"):
        batches(write(tmp_path / f"a{kind}.gz", gzip.compress(BINARY[kind](rows))))


@pytest.mark.parametrize("kind", BINARY)
def test_a_truncated_binary_file_is_named(tmp_path: Path, rows: Rows, kind: str) -> None:
    data = BINARY[kind](rows)
    for keep in (3, len(data) // 2):
        with pytest.raises(InputError, match=f"a{kind}: "):
            batches(write(tmp_path / f"a{kind}", data[:keep]))


ONE_VALUE = [
    b'{"data": [\n{"text":"a one"},\n{"text":"b two"}\n]}\n',
    b'{"text":"a",\n"b":1}\n',
    b'{"data":\n[1, 2]}\n',
    b'{\n  "text": "a"\n}\n',
    b'[{"text": "a"},\n{"text": "b"}]\n',
    b'[\n{"text": "a"}\n]\n',
]


@pytest.mark.parametrize("data", ONE_VALUE)
@pytest.mark.parametrize("suffix", [".json", ".jsonl.gz"])
def test_one_value_over_several_lines_is_refused_with_a_hint(tmp_path: Path, data: bytes, suffix: str) -> None:
    write(tmp_path / f"a{suffix}", gzip.compress(data) if suffix.endswith("gz") else data)
    with pytest.raises(InputError, match="one JSON value over the whole file is not read; write one object a line"):
        make_plan(CorpusSpec(paths=[str(tmp_path)]))


@pytest.mark.parametrize("first", ['{"text": "cut', '{"text": "cut",', '{"text":', '{"text": nothing}', "{"])
def test_a_damaged_first_line_is_a_reject(tmp_path: Path, first: str) -> None:
    path = write(tmp_path / "a.jsonl", first.encode() + b"\n" + jsonl([{"text": "a"}, {"text": "b"}]))
    assert column(batches(path), "text") == [None, "a", "b"]


@pytest.mark.parametrize("at", ['1,"never closed', '"1,a'])
def test_a_quote_that_is_not_closed_is_an_error(tmp_path: Path, at: str) -> None:
    write(tmp_path / "a.csv", f"id,text\n0,fine\n{at}\n2,b\n3,c\n".encode())
    spec = CorpusSpec(paths=[str(tmp_path)])
    with pytest.raises(InputError, match=r"a\.csv: a quote is not closed in the row that begins at line 3; mend it"):
        make_plan(spec)


def test_an_arrow_file_that_is_cut_between_two_batches_is_truncated(tmp_path: Path) -> None:
    whole = arrow([{"text": str(i)} for i in range(20)], pa.ipc.new_file)
    with pa.ipc.open_stream(pa.BufferReader(whole[8:])) as reader:
        sizes = [len(arrow([{"text": str(i)} for i in range(rows)], pa.ipc.new_stream)) for rows in (7, 14)]
        assert len(list(reader)) == 3
    for size in (sizes[0], sizes[1], len(whole) - 8 - 1):
        write(tmp_path / "a.arrow", whole[: 8 + size - 8])  # a stream ends with 8 bytes that its prefix does not have
        with pytest.raises(InputError, match="it is truncated"):
            make_plan(CorpusSpec(paths=[str(tmp_path)]))


def test_zeros_after_bz2_are_no_padding(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl.bz2", bz2.compress(jsonl([{"text": "a"}])) + bytes(4))
    with pytest.raises(InputError, match="no bz2 stream"):
        batches(tmp_path / "a.jsonl.bz2")
