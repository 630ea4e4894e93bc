"""Formats and names of exports."""

import pytest

from pruner.corpus.files import CorpusFile
from pruner.corpus.names import Codec, Format
from pruner.corpus.paths import CorpusPath
from pruner.errors import InputError
from pruner.export.formats import RowFormat, output_names


def file(relative: str, kind: Format = "jsonl", codec: Codec | None = None) -> CorpusFile:
    return CorpusFile(CorpusPath("file", f"/corpus/{relative}"), kind, codec, 10, "1", relative)


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("a/b.json.gz", "same", "a/b.json.gz"),
        ("part-00000", "same", "part-00000"),
        ("a/b.json.gz", "parquet", "a/b.parquet"),
        ("a/b.JSON.GZ", "jsonl", "a/b.jsonl"),
        ("a.b/c.d.ndjson", "jsonl.zst", "a.b/c.d.jsonl.zst"),
        ("a.jsonl.zstd", "jsonl.zst", "a.jsonl.zst"),
        ("a.parquet", "jsonl.gz", "a.jsonl.gz"),
        ("a.parquet", "parquet", "a.parquet"),
        ("a.arrow", "parquet", "a.parquet"),
        ("a.csv.xz", "jsonl", "a.jsonl"),
        ("data.gz", "jsonl", "data.jsonl"),
        ("part-00000", "parquet", "part-00000.parquet"),
        ("crawl.2024", "parquet", "crawl.2024.parquet"),
        ("a/.jsonl", "parquet", "a/.jsonl.parquet"),
    ],
)
def test_a_conversion_changes_the_suffix_of_a_name(name: str, target: RowFormat, expected: str) -> None:
    assert output_names([file(name)], target) == [expected]


def test_names_are_in_the_order_of_the_files() -> None:
    assert output_names([file("b.jsonl"), file("a/b.jsonl"), file("a.jsonl")], "parquet") == [
        "b.parquet",
        "a/b.parquet",
        "a.parquet",
    ]


def test_a_file_of_an_earlier_plan_has_the_name_of_its_path() -> None:
    assert output_names([CorpusFile(CorpusPath("s3", "bucket/x/a.csv"), "csv", None, 1, "1")], "same") == ["a.csv"]


def test_two_files_with_one_name_are_an_error_that_names_both() -> None:
    files = [file("a.jsonl"), file("b.jsonl"), file("a.json.gz", codec="gzip")]
    assert output_names(files, "same") == ["a.jsonl", "b.jsonl", "a.json.gz"]
    with pytest.raises(
        InputError, match=r"^/corpus/a\.jsonl and /corpus/a\.json\.gz: both would be exported as a.parquet;"
    ):
        output_names(files, "parquet")


def test_a_name_that_another_needs_for_a_folder_is_an_error_that_names_both() -> None:
    files = [file("x/a.parquet/0.parquet", "parquet"), file("x/a.jsonl")]
    assert output_names(files, "same") == ["x/a.parquet/0.parquet", "x/a.jsonl"]
    with pytest.raises(InputError, match=r"^/corpus/x/a\.jsonl and /corpus/x/a\.parquet/0\.parquet: would be exported"):
        output_names(files, "parquet")
