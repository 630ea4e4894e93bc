"""A check shows what a corpus holds, and why a job over it would fail."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruner.corpus import check as checks
from pruner.corpus import sandbox
from pruner.corpus.check import CorpusCheck, check_corpus
from pruner.corpus.plan import make_plan
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from tests.pruner.conftest import jsonl, parquet, zstd
from tests.pruner.test_shard_reader import write


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"text": f"{i} " + "x" * 1000, "meta": {"url": "https://a.org", "n": i}} for i in range(5)]
    write(tmp_path / "a.parquet", parquet(rows[:2]))
    write(tmp_path / "b.jsonl.zst", zstd(jsonl(rows[2:])))
    write(tmp_path / "README.md", b"About.")
    return tmp_path


def check(path: Path, **fields: str) -> CorpusCheck:
    spec = CorpusSpec(paths=[str(path)], **fields)
    found = check_corpus(spec)
    assert sandbox.check_corpus(spec) == found
    if found.problems:
        with pytest.raises(InputError):
            make_plan(spec)
    else:
        make_plan(spec)
    return found


def test_what_a_check_shows(corpus: Path) -> None:
    found = check(corpus)
    assert [(file.path, file.format, file.rows) for file in found.files] == [
        (str(corpus / "a.parquet"), "parquet", 2),
        (str(corpus / "b.jsonl.zst"), "jsonl", None),
    ]
    assert [file.bytes for file in found.files] == [Path(file.path).stat().st_size for file in found.files]
    assert [(left.reason, left.files, left.example) for left in found.left_out] == [
        ("documentation", 1, str(corpus / "README.md"))
    ]
    assert {field.name for field in found.fields} == {"text", "meta.url", "meta.n"}
    assert dict(found.suggested) == {"text_field": "text", "id_field": None, "domain_field": "meta.url"}
    assert [text[:2] for text in found.documents] == ["0 ", "1 ", "2 "]
    assert all(len(text) == 500 for text in found.documents)
    assert found.estimate.tokens is not None
    assert found.problems == []


@pytest.mark.parametrize(("name", "data"), [("a.jsonl", b""), ("a.jsonl", b"\n\r\n"), ("a.csv", b"text\n")])
def test_a_corpus_without_documents_is_a_problem(tmp_path: Path, name: str, data: bytes) -> None:
    write(tmp_path / name, data)
    empty = f"the corpus is empty: there are no documents in {tmp_path / name}"
    assert check(tmp_path).problems == [empty]
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    assert check(tmp_path).problems == [f"{empty} and the other files"]
    write(tmp_path / "c.jsonl", jsonl([{"text": "a"}]))
    assert check(tmp_path).problems == []


def test_fields_that_the_first_row_lacks_are_shown(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl([{"text": "a"}, {"text": "b", "doc_id": 7}]))
    found = check(tmp_path)
    assert [(field.name, field.type) for field in found.fields] == [("text", "string"), ("doc_id", "integer")]
    assert found.suggested.id_field == "doc_id"


def test_other_fields_are_suggested_and_shown(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", jsonl([{"content": "a text", "id": 7, "source": "web"}]))
    found = check(tmp_path)
    assert dict(found.suggested) == {"text_field": "content", "id_field": "id", "domain_field": "source"}
    assert found.documents == ["a text"]
    (problem,) = found.problems
    assert "no field 'text' for corpus.text_field" in problem
    assert check(tmp_path, text_field="content").problems == []


def test_every_file_with_a_problem_is_named(corpus: Path) -> None:
    write(corpus / "c.parquet", b"PAR1 cut")
    write(corpus / "d.jsonl.gz", b"\x1f\x8b\x08 damaged")
    found = check(corpus)
    assert [Path(file.path).name for file in found.files] == ["a.parquet", "b.jsonl.zst"]
    assert [problem.partition(":")[0] for problem in found.problems] == [
        str(corpus / "c.parquet"),
        str(corpus / "d.jsonl.gz"),
    ]


def test_every_file_with_a_name_that_is_not_read_is_named(corpus: Path) -> None:
    names = ["c.tar", "d.mds", "e.xml"]
    for name in names:
        write(corpus / name, b"x")
    found = check(corpus)
    assert [Path(file.path).name for file in found.files] == ["a.parquet", "b.jsonl.zst"]
    assert [problem.partition(":")[0] for problem in found.problems] == [str(corpus / name) for name in names]
    assert [left.reason for left in found.left_out] == ["documentation"]
    assert found.documents
    with pytest.raises(InputError, match=r"c\.tar: .tar files are not read; .*\(and 2 more files\)"):
        make_plan(CorpusSpec(paths=[str(corpus)]))
    (problem,) = check(corpus / "c.tar").problems
    assert "c.tar: .tar files are not read" in problem


def test_of_many_files_the_first_are_looked_into(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_FILES_MAX", 1)
    write(corpus / "c.parquet", parquet([{"text": "c"}]))
    found = check_corpus(CorpusSpec(paths=[str(corpus)]))
    assert [file.rows for file in found.files] == [2, None, None]
    assert [file.format for file in found.files] == ["parquet", "jsonl", "parquet"]


def test_a_path_that_is_wrong_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        sandbox.check_corpus(CorpusSpec(paths=[str(tmp_path / "gone")]))
