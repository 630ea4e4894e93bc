"""Exports of text files in their own format: the original bytes of the kept rows."""

import csv
import io
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest

from pruner.corpus import plan as plans
from pruner.corpus.plan import make_plan
from pruner.errors import InputError
from pruner.export.export_file import export_file, join_parts
from pruner.export.formats import ExportedFile, may_be_cut
from pruner.export.protocol import LineRange
from pruner.spec import CorpusSpec
from pruner.tables.storage import Storage
from tests.pruner.conftest import Rows
from tests.pruner.exports import DECODERS, export, kept_rows, planned, scores
from tests.pruner.test_formats import CODECS, table
from tests.pruner.test_shard_reader import write

KEPT = [0, 1, 5, 6, 20, 47]
LINES = [
    b'{"text": "plain", "n": 1.50}\n',
    b'{"text":"crlf"}\r\n',
    b"\n",
    b' {"text" : "spaces" , "b": {} }  \t\n',
    b"broken\n",
    '{"text": "é \\ud800", "n": NaN}\n'.encode(),
    b'{"text": "brace }", "a": [{"text": "}"}]}\r\n',
    b'{"text": "the last"}',
]


@pytest.mark.parametrize("codec", CODECS)
def test_json_lines_are_the_bytes_of_the_kept_lines(tmp_path: Path, rows: Rows, codec: str) -> None:
    lines = [json.dumps(row, ensure_ascii=i % 2 == 0).encode() + b"\r\n"[i % 2 :] for i, row in enumerate(rows)]
    for name in (f"a.jsonl{codec}", f"a.ndjson{codec}", "part-0"):
        path = write(tmp_path / name, CODECS[codec](b"".join(lines)))
        found = DECODERS[codec](export(path, KEPT).read_bytes())
        assert found == b"".join(lines[row] for row in KEPT)


def test_lines_keep_their_ends_and_the_last_one_stays_without(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"".join(LINES))
    for kept in ([0], [1], [3, 5], [0, 1, 3, 5, 6, 7], [7]):
        assert export(path, kept).read_bytes() == b"".join(LINES[row] for row in kept)


def test_a_byte_order_mark_stays_with_the_first_line(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    path = write(tmp_path / "a.jsonl", mark + b"".join(LINES))
    assert export(path, [0, 1]).read_bytes() == mark + LINES[0] + LINES[1]
    assert export(path, [1]).read_bytes() == LINES[1]
    with_scores = export(path, [0], columns=scores([0])).read_bytes()
    assert json.loads(with_scores)["n"] == 1.5


def test_scores_are_the_last_keys_of_a_line(tmp_path: Path) -> None:
    path, kept = write(tmp_path / "a.jsonl", b"".join(LINES)), [0, 1, 3, 5, 6, 7]
    found = export(path, kept, columns=scores(kept)).read_bytes().splitlines(keepends=True)
    for row, line in zip(kept, found, strict=True):
        cut = LINES[row].rindex(b"}")
        assert line.startswith(LINES[row][:cut] + b',"winnow_nll":')
        assert line.endswith(LINES[row][cut:])
        values = json.loads(line)
        added = {name: column[kept.index(row)].as_py() for name, column in scores(kept).items()}
        assert str(values) == str(json.loads(LINES[row]) | added)


def test_scores_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", LINES[0])
    columns = {"winnow_nll": pa.array([float("nan")])}
    assert json.loads(export(path, [0], columns=columns).read_bytes())["winnow_nll"] is None


@pytest.mark.parametrize("codec", CODECS)
def test_csv_has_the_header_and_the_bytes_of_the_kept_rows(tmp_path: Path, rows: Rows, codec: str) -> None:
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        path = write(tmp_path / f"a{suffix}{codec}", CODECS[codec](table(rows, delimiter)))
        found = DECODERS[codec](export(path, KEPT).read_bytes())
        assert found == table([rows[row] for row in KEPT], delimiter)


CSV = (
    b'\xef\xbb\xbftext,id\n"a ""quoted"" one\r\nand, more",1\r\n\nshort\n',
    b"plain,2\n",
    b"bad \xff,3\n",
    b"more,007,,\r\n",
    b'"last\n",5',
)


def test_csv_keeps_quotes_bytes_and_line_ends(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", b"".join(CSV))
    assert export(path, [3, 5, 6]).read_bytes() == b"\xef\xbb\xbftext,id\n" + CSV[1] + CSV[3] + CSV[4]
    assert export(path, [0]).read_bytes() == CSV[0].partition(b"\n\nshort")[0] + b"\n"
    for row, reason in ((1, "blank line"), (2, "1 values where the header has 2"), (4, "invalid UTF-8")):
        with pytest.raises(InputError, match=rf"a\.csv: row {row} is to be exported, but is no document .*{reason}"):
            export(path, [row])


def test_scores_are_the_last_columns_of_csv(tmp_path: Path) -> None:
    path, kept = write(tmp_path / "a.csv", b"".join(CSV)), [0, 3, 5, 6]
    data = export(path, kept, columns=scores(kept)).read_bytes()
    assert data.startswith(b"\xef\xbb\xbftext,id,winnow_nll,winnow_n_tokens,winnow_percentile,edu\n")
    assert b'and, more",1,0.0,0,,0.0\r\n' in data
    found = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert [row["text"] for row in found] == ['a "quoted" one\r\nand, more', "plain", "more", "last\n"]
    for name, column in scores(kept).items():
        assert [row[name] for row in found] == ["" if v is None else str(v) for v in column.to_pylist()]


@pytest.mark.parametrize(("name", "data"), [("a.jsonl", b'{"text": "a", "edu": 1}\n'), ("a.csv", b"text,edu\na,1\n")])
def test_a_name_that_is_there_already_is_an_error(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(InputError, match=f"{name}: has a column 'edu' already; export it without scores"):
        export(write(tmp_path / name, data), [0], columns=scores([0]))


# -- rows that cannot be exported
NO_DOCUMENTS = {
    b"": "blank line",
    b"{broken}": "invalid JSON",
    b"[1]": "not a JSON object",
    b'{"id": 1}': "no field 'text'",
    b'{"text": null}': "not text: null",
    b'{"text": ""}': "empty text",
    b'{"text": 1}': "not text: int",
    b'{"text": "\xff"}': "invalid UTF-8",
    b'{"text": "%b"}' % (b"x" * (65 << 20)): "longer than 64 MiB",
}


def test_a_kept_line_that_is_no_document_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"\n".join([LINES[0], *NO_DOCUMENTS]))
    for row, reason in enumerate(NO_DOCUMENTS.values(), 2):
        said = rf"a\.jsonl: row {row} is to be exported, but is no document \(.*{reason}"
        with pytest.raises(InputError, match=said):
            export(path, [0, row])
        with pytest.raises(InputError, match=said):
            export(path, [0, row], "parquet", scores([0, row]))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kept_row_after_the_last_one_is_an_error(tmp_path: Path) -> None:
    for name, data in (("a.csv", b"text\na\nb\n\n\n"), ("a.jsonl", b'{"text": "a"}\n{"text": "b"}\n\n\n')):
        with pytest.raises(InputError, match=f"{name}: row 2 is to be exported, but is not there"):
            export(write(tmp_path / name, data), [0, 2])


def test_kept_rows_that_do_not_ascend_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"".join(LINES))
    for rows in ([1, 0], [1, 1], [-1], [-2, 0]):
        with pytest.raises(InputError, match=r"a\.jsonl: its kept rows are no ascending row numbers"):
            export(path, rows)


def test_no_kept_rows_or_rows_of_another_type_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b"".join(LINES))
    with pytest.raises(ValueError, match="at least one row"):
        export(path, [])


# -- shards
@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SHARD_BYTES", 1000), ("_RANGES_FROM", 1), ("_RANGE_BYTES", 200), ("_RANGES_MAX", 50)):
        monkeypatch.setattr(plans, name, value)


def export_shards(path: Path, rows: Sequence[int], with_scores: bool) -> bytes:
    """The export of a file whose shards are exported one by one and joined."""
    plan = make_plan(CorpusSpec(paths=[str(path)]))
    assert len(plan.shards) > 3
    assert may_be_cut(plan.files[0], "same")
    text = DECODERS[path.suffix if path.suffix in DECODERS else ""](path.read_bytes())
    starts = [0, *(place + 1 for place, byte in enumerate(text) if byte == ord("\n"))]
    storage, first_row = Storage(str(path.parent / "parts")), 0
    parts: list[ExportedFile] = []
    for shard in plan.shards:
        stop = first_row + sum(shard.start <= start < (shard.stop or len(text)) for start in starts)
        here = [row for row in rows if first_row <= row < stop]
        if here:
            kept = kept_rows(here, scores(here) if with_scores else None)
            lines = LineRange(shard.start, shard.stop, first_row)
            parts.append(export_file(plan.files[0], kept, "same", storage, str(shard.index), "text", lines=lines))
        first_row = stop
    calls: list[int] = []
    joined = join_parts(storage, parts, Storage(str(path.parent / "joined")), "a/b", lambda: calls.append(1))
    data = (path.parent / "joined/a/b").read_bytes()
    assert joined == ExportedFile(path="a/b", rows=len(rows), sha256=sha256(data).hexdigest(), bytes=len(data))
    assert calls
    return data


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("with_scores", [False, True])
def test_joined_shards_equal_the_whole_file(tmp_path: Path, rows: Rows, codec: str, with_scores: bool) -> None:
    text = b"\n\n".join(json.dumps(row).encode() for row in rows)
    path = write(tmp_path / f"a.jsonl{codec}", CODECS[codec](text))
    kept = [0, 2, 16, 18, 20, 60, 94]  # the last line has no end
    decode = DECODERS[codec]
    joined = decode(export_shards(path, kept, with_scores))
    whole = export(path, kept, columns=scores(kept) if with_scores else None)
    assert joined == decode(whole.read_bytes())
    assert joined.count(b"\n") == len(kept) - 1


@pytest.mark.usefixtures("small_shards")
def test_a_row_of_another_shard_is_an_error(tmp_path: Path, rows: Rows) -> None:
    path = write(tmp_path / "a.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    shard = make_plan(CorpusSpec(paths=[str(path)])).shards[1]
    for row in (0, 47):
        with pytest.raises(InputError, match=rf"a\.jsonl: row {row} is to be exported, but is not there"):
            export(path, [row], lines=LineRange(shard.start, shard.stop, 8))


def test_only_json_lines_that_stay_so_have_parts(tmp_path: Path, rows: Rows) -> None:
    lines, cells = write(tmp_path / "a.jsonl", b"".join(LINES)), write(tmp_path / "a.csv", table(rows))
    assert may_be_cut(planned(lines), "jsonl.gz")
    assert not may_be_cut(planned(lines), "parquet")
    assert not may_be_cut(planned(cells), "jsonl")
    with pytest.raises(ValueError, match="no parts"):
        export(cells, [0], lines=LineRange(10, 20, 1))


# -- bytes
@pytest.mark.parametrize("codec", CODECS)
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, rows: Rows, codec: str) -> None:
    text = b"".join(json.dumps(row | {"n": i}).encode() + b"\n" for i, row in enumerate(rows * 100))
    path, kept = write(tmp_path / f"a.jsonl{codec}", CODECS[codec](text)), range(0, 4800, 3)
    first = export(path, kept).read_bytes()
    assert export(path, kept).read_bytes() == first
    if codec == ".gz":
        assert first[4:8] == bytes(4)  # no time of writing
