"""Paths, folders, globs and URLs resolve to files in a predictable order."""

import os
import uuid
from pathlib import Path

import fsspec
import pytest

from pruner.corpus.files import find_files
from pruner.errors import InputError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def urls(*paths: str | Path) -> list[str]:
    return [file.url for file in find_files([str(path) for path in paths])]


def test_each_path_in_the_order_given_and_sorted_inside(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jsonl", "b/1.parquet", "b/c/0.jsonl.gz", "a/z.jsonl.zst", "a/y.jsonl")
    found = urls(tmp_path / "b", tmp_path / "a" / "*.jsonl*")
    assert found == [
        str(tmp_path / n) for n in ("b/1.parquet", "b/2.jsonl", "b/c/0.jsonl.gz", "a/y.jsonl", "a/z.jsonl.zst")
    ]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    touch(tmp_path, "1.jsonl", "2.jsonl")
    assert urls(tmp_path / "2.jsonl", tmp_path, f"{tmp_path}/./1.jsonl") == [
        str(tmp_path / "2.jsonl"),
        str(tmp_path / "1.jsonl"),
    ]


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "1.jsonl")
    monkeypatch.chdir(tmp_path)
    assert urls("1.jsonl") == urls("*.jsonl") == urls(".") == [str(tmp_path / "1.jsonl")]


def test_globs_go_through_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.jsonl", "a/b/2.jsonl", "a/b/readme.txt")
    assert urls(f"{tmp_path}/**/*.jsonl") == [str(tmp_path / "a/1.jsonl"), str(tmp_path / "a/b/2.jsonl")]
    assert urls(f"{tmp_path}/a/b/*") == [str(tmp_path / "a/b/2.jsonl")]


def test_an_existing_file_wins_over_the_pattern_of_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "part [1] of 2.jsonl")
    assert urls(tmp_path / "part [1] of 2.jsonl") == [str(tmp_path / "part [1] of 2.jsonl")]


def test_hidden_files_in_a_folder_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "1.jsonl", ".cache/2.jsonl", "_temporary/3.parquet")
    assert urls(tmp_path) == [str(tmp_path / "1.jsonl")]


def test_a_pattern_matches_hidden_names_only_if_it_starts_with_a_dot(tmp_path: Path) -> None:
    touch(tmp_path, "1.jsonl", "._1.jsonl", ".cache/2.jsonl", "_3.jsonl")
    assert (
        urls(f"{tmp_path}/**/*.jsonl")
        == urls(f"{tmp_path}/*.jsonl")
        == [str(tmp_path / n) for n in ("1.jsonl", "_3.jsonl")]
    )
    assert urls(f"{tmp_path}/.cache/*.jsonl") == urls(f"{tmp_path}/.c*/*") == [str(tmp_path / ".cache/2.jsonl")]
    with pytest.raises(InputError, match="matches no"):
        find_files([f"{tmp_path}/?_1.jsonl"])


def test_urls_of_memory_and_s3(s3_url: str) -> None:
    memory = f"memory://{uuid.uuid4().hex}"
    for root in (memory, s3_url):
        fs, path = fsspec.core.url_to_fs(root)
        for name in ("b.jsonl", "a.parquet", "c.txt"):
            fs.pipe_file(f"{path}/data/{name}", b"x")
        for given in (f"{root}/data", f"{root}/data/*"):
            assert [url.rsplit("/", 1)[-1] for url in urls(given)] == ["a.parquet", "b.jsonl"]
        assert all(file.size == 1 and file.version for file in find_files([f"{root}/data"]))
    assert urls(f"{s3_url}/data/b.jsonl") == [f"{s3_url}/data/b.jsonl"]


def test_a_file_that_changes_has_another_version(tmp_path: Path) -> None:
    touch(tmp_path, "1.jsonl")
    (before,) = find_files([str(tmp_path)])
    assert before.is_unchanged()
    os.utime(tmp_path / "1.jsonl", ns=(1, 1))
    assert not before.is_unchanged()
    (tmp_path / "1.jsonl").unlink()
    with pytest.raises(InputError, match=r"1\.jsonl"):
        before.is_unchanged()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.parquet", "missing.parquet: no such file or folder"),
        ("*.parquet", r"\*.parquet: the pattern matches no"),
        ("empty", "empty: the folder holds no"),
        ("notes.txt", "notes.txt: not a corpus file; give .parquet"),
        ("s4://bucket/x", "s4://bucket/x: unsupported scheme"),
    ],
)
def test_wrong_paths_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "notes.txt")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        find_files([path])
    assert "\n" not in str(caught.value)


def test_a_file_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.jsonl")).write_bytes(b"x")
    with pytest.raises(InputError, match="the file name is not valid UTF-8"):
        find_files([str(tmp_path)])
