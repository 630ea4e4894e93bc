"""Paths, folders, globs and URLs resolve to files in a predictable order."""

import os
import uuid
from pathlib import Path

import fsspec
import pytest

from pruner.corpus import walk
from pruner.corpus.listing import Listing, find_files, list_files
from pruner.corpus.paths import Roots
from pruner.errors import InputError
from pruner.spec import CorpusSpec


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listed(*paths: str | Path, **rules: list[str]) -> Listing:
    return find_files(CorpusSpec(paths=[str(path) for path in paths], **rules))


def urls(*paths: str | Path, **rules: list[str]) -> list[str]:
    return [file.url for file in listed(*paths, **rules).files]


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
    with pytest.raises(InputError, match="there is no file"):
        listed(f"{tmp_path}/?_1.jsonl")


def test_urls_of_memory_and_s3(s3_url: str) -> None:
    memory = f"memory://{uuid.uuid4().hex}"
    for root in (memory, s3_url):
        fs, path = fsspec.core.url_to_fs(root)
        for name in ("b.jsonl", "a.parquet", "c.txt"):
            fs.pipe_file(f"{path}/data/{name}", b"x")
        for given in (f"{root}/data", f"{root}/data/*"):
            assert [url.rsplit("/", 1)[-1] for url in urls(given)] == ["a.parquet", "b.jsonl", "c.txt"]
        assert all(file.size == 1 and file.version for file in listed(f"{root}/data").files)
        assert [file.relative for file in listed(f"{root}/data").files] == ["a.parquet", "b.jsonl", "c.txt"]
        fs.pipe_file(f"{path}/data/README.md", b"x")
        assert [left.example for left in listed(f"{root}/data").left_out] == [f"{root}/data/README.md"]
        fs.pipe_file(f"{path}/data/x.tar", b"x")
        with pytest.raises(InputError, match=f"^{root}/data/x.tar: .tar files are not read"):
            listed(f"{root}/data")
        fs.rm_file(f"{path}/data/x.tar")
    assert urls(f"{s3_url}/data/b.jsonl") == [f"{s3_url}/data/b.jsonl"]


def test_globs_match_in_a_store_what_they_match_on_a_disk(s3_url: str, tmp_path: Path) -> None:
    names = ["a.jsonl", "x/a.jsonl", "x/b/c.jsonl", "x/b/.d/e.jsonl", "y/_b/c.jsonl", ".h/a.jsonl", "y/b/f.jsonl"]
    roots = [str(tmp_path), f"memory://{uuid.uuid4().hex}", s3_url]
    for root in roots:
        fs, path = fsspec.core.url_to_fs(root)
        for name in names:
            fs.makedirs(f"{path}/{name}".rpartition("/")[0], exist_ok=True)
            fs.pipe_file(f"{path}/{name}", b"{}")
    for glob in ("*", "*/*", "*/*.jsonl", "**/*.jsonl", "x/**", "**", "?/b/*", "**/b", "*/_b/*.jsonl", ".h/*", "x*/b"):
        found = []
        for root in roots:
            listing = listed(f"{root}/{glob}")
            left_out = [(left.reason, left.files) for left in listing.left_out]
            found.append(([file.relative for file in listing.files], left_out))
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_progress_of_a_listing_is_told(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "_TELL_EACH", 2)
    root = str(tmp_path) if kind == "disk" else f"memory://{uuid.uuid4().hex}"
    fs, path = fsspec.core.url_to_fs(root)
    for number in range(5):
        fs.makedirs(f"{path}/{number // 3}", exist_ok=True)
        fs.pipe_file(f"{path}/{number // 3}/{number}.jsonl", b"{}")
    told: list[int] = []
    list_files(CorpusSpec(paths=[f"{root}/0", f"{root}/1", f"{root}/*/4.jsonl"]), on_listed=told.append)
    assert told == [2, 5]


def test_objects_that_stand_for_folders_are_no_files(s3_url: str) -> None:
    fs, path = fsspec.core.url_to_fs(s3_url)
    for key in ("c/", "c/empty/", "c/d/"):
        fs.call_s3("put_object", Bucket=path, Key=key, Body=b"")
    fs.pipe_file(f"{path}/c/d/a.jsonl", b"x")
    for given in ("c", "c/*", "c/**", "*"):
        found = listed(f"{s3_url}/{given}")
        assert [file.url for file in found.files] == [f"{s3_url}/c/d/a.jsonl"]
        assert found.left_out == ()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.parquet", "missing.parquet: no such file or folder"),
        ("*.parquet", r"\*.parquet: there is no file; a corpus has .parquet"),
        ("empty", "empty: there is no file"),
        ("docs", "docs: there is no corpus file; .*left out: 1 documentation, such as .*README.md"),
        ("data.tar", "data.tar: .tar files are not read; unpack it, or exclude it"),
        ("DATA.mds.zst", "DATA.mds.zst: .mds files are not read; convert it to Parquet or JSON lines"),
        ("s4://bucket/x", "s4://bucket/x: unsupported scheme"),
    ],
)
def test_wrong_paths_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "docs/README.md", "data.tar", "DATA.mds.zst")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as caught:
        listed(path)
    assert "\n" not in str(caught.value)


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"caf\xe9.jsonl"), "a.jsonl")
    with pytest.raises(InputError, match=r"caf\\xe9\.jsonl: the file name is not valid UTF-8; rename"):
        listed(tmp_path)
    found = listed(tmp_path, exclude=["caf?.jsonl"])
    assert [file.relative for file in found.files] == ["a.jsonl"]
    assert [(left.reason, left.files, left.example) for left in found.left_out] == [
        ("excluded", 1, rf"{tmp_path}/caf\xe9.jsonl")
    ]


def test_patterns_that_match_no_file_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "en/a.jsonl", "en/b.jsonl")
    found = listed(tmp_path, include=["en/*", "de/*"], exclude=["b.*", "a.jsonl.gz"])
    assert [file.relative for file in found.files] == ["en/a.jsonl"]
    assert [(left.reason, left.files, left.example) for left in found.left_out] == [
        ("excluded", 1, f"{tmp_path}/en/b.jsonl"),
        ("no file matches the pattern a.jsonl.gz of exclude", 0, "a.jsonl.gz"),
        ("no file matches the pattern de/* of include", 0, "de/*"),
    ]


# -- left out
def test_what_is_no_corpus_file_is_counted_and_named(tmp_path: Path) -> None:
    names = ["README.md", "LICENSE", ".gitattributes", "_SUCCESS", "dataset_info.json", "a.jsonl.sha256", ".x/b.jsonl"]
    touch(tmp_path, "a.jsonl", "B.JSONL.GZ", "readme.jsonl", *names)
    found = listed(tmp_path)
    assert [file.relative for file in found.files] == ["B.JSONL.GZ", "a.jsonl", "readme.jsonl"]
    assert {left.reason: left.files for left in found.left_out} == {
        "documentation": 2,
        "hidden files": 3,
        "metadata": 1,
        "checksums": 1,
    }


def test_copies_of_editors_and_downloads_are_left_out(tmp_path: Path) -> None:
    copies = ["x.jsonl~", "x.jsonl.gz~", "#x.jsonl#"]
    copies += [f"x.jsonl.{end}" for end in ("tmp", "part", "crdownload", "swp", "bak")]
    touch(tmp_path, "x.jsonl", "part-0001", "y.part.jsonl", *copies)
    found = listed(tmp_path)
    assert [file.relative for file in found.files] == ["part-0001", "x.jsonl", "y.part.jsonl"]
    assert [(left.reason, left.files) for left in found.left_out] == [("temporary files", len(copies))]
    assert len(listed(tmp_path / "x.jsonl.part").files) == 1  # as the user names it


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, ["a.jsonl", "en/a.jsonl", "en/b.jsonl", "en_removed/a.jsonl", "en_removed/x/c.jsonl"]),
        ({"exclude": ["*_removed/**"]}, ["a.jsonl", "en/a.jsonl", "en/b.jsonl"]),
        ({"exclude": ["a.*"]}, ["en/b.jsonl", "en_removed/x/c.jsonl"]),
        ({"include": ["en/*"]}, ["en/a.jsonl", "en/b.jsonl"]),
        ({"include": ["**/[!a].jsonl"]}, ["en/b.jsonl", "en_removed/x/c.jsonl"]),
        ({"include": ["**/a.jsonl"], "exclude": ["en/*"]}, ["a.jsonl", "en_removed/a.jsonl"]),
        ({"exclude": ["*/*.jsonl"]}, ["a.jsonl", "en_removed/x/c.jsonl"]),
        ({"exclude": ["en/"]}, ["a.jsonl", "en_removed/a.jsonl", "en_removed/x/c.jsonl"]),
        ({"exclude": ["**/x/", "./en/**"]}, ["a.jsonl", "en_removed/a.jsonl"]),
        ({"exclude": ["/en_*/**"]}, ["a.jsonl", "en/a.jsonl", "en/b.jsonl"]),
        ({"include": ["./a.jsonl", "/en/b.jsonl"]}, ["a.jsonl", "en/b.jsonl"]),
    ],
)
def test_include_and_exclude(tmp_path: Path, rules: dict[str, list[str]], kept: list[str]) -> None:
    names = ["a.jsonl", "en/a.jsonl", "en/b.jsonl", "en_removed/a.jsonl", "en_removed/x/c.jsonl"]
    touch(tmp_path, *names)
    found = listed(tmp_path, **rules)
    assert [file.relative for file in found.files] == kept
    assert sum(left.files for left in found.left_out) == len(names) - len(kept)


def test_data_that_cannot_be_read_may_be_excluded(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "b.tar", "c/d.tar.gz")
    with pytest.raises(InputError, match=r"b\.tar: .*exclude: '\*\.tar\*'"):
        listed(tmp_path)
    assert len(listed(tmp_path, exclude=["*.tar*"]).files) == 1


def test_rules_that_leave_nothing_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl")
    with pytest.raises(InputError, match=r"no corpus file that include and exclude leave; .*1 excluded"):
        listed(tmp_path, exclude=["*"])
    with pytest.raises(InputError, match="not a valid pattern"):
        listed(tmp_path, exclude=["[z-a]"])


def test_the_output_of_the_command_is_no_part_of_the_corpus(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl", "out/manifest.parquet", "scores.parquet")
    spec = CorpusSpec(paths=[str(tmp_path)])
    touch(tmp_path, "out-1.jsonl", "scores.parquet.jsonl")
    found = find_files(spec, ignored=[f"{tmp_path}/out/", str(tmp_path / "scores.parquet")])
    assert [file.relative for file in found.files] == ["a.jsonl", "out-1.jsonl", "scores.parquet.jsonl"]
    assert [(left.reason, left.files) for left in found.left_out] == [("output of this command", 2)]


# -- the corpus root
def test_the_root_of_paths(tmp_path: Path) -> None:
    touch(tmp_path, "x/a/1.jsonl", "x/b/c/2.jsonl")

    def relative(*paths: str) -> list[str]:
        return [file.relative for file in listed(*(f"{tmp_path}/{path}" for path in paths)).files]

    assert relative("x") == relative("x/**") == ["a/1.jsonl", "b/c/2.jsonl"]
    assert relative("x/*/*.jsonl") == ["a/1.jsonl"]
    assert relative("x/b/*") == ["c/2.jsonl"]  # a folder that a glob matches is read as a folder
    assert relative("x/a/1.jsonl") == ["1.jsonl"]
    assert relative("x/a", "x/b") == relative("x/a/1.jsonl", "x/b/c") == ["a/1.jsonl", "b/c/2.jsonl"]


# -- links
def test_folders_are_followed_through_links_each_once(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.jsonl", "data/real/x.jsonl")
    for name, target in (("shard0", "../elsewhere"), ("shard1", "real"), ("loop", "..")):
        (tmp_path / "data" / name).symlink_to(target)
    found = listed(tmp_path / "data")
    names = {os.path.realpath(file.url) for file in found.files}
    assert len(found.files) == len(names) == 2
    assert all(left.reason == "links to folders that are listed under another name" for left in found.left_out)
    assert len(listed(f"{tmp_path}/data/*/x.jsonl").files) == 2
    assert len(listed(f"{tmp_path}/data/shard*").files) == 2


@pytest.mark.parametrize("glob", ["*/*/x.jsonl", "**/cur/*.jsonl", "**/cur/**", "*/cur", "*/cur/x*"])
def test_a_link_to_a_folder_that_was_only_passed_is_read(tmp_path: Path, glob: str) -> None:
    touch(tmp_path, "v2/x.jsonl", "langs/old/y.jsonl")
    (tmp_path / "langs/cur").symlink_to("../v2")
    (tmp_path / "v2/loop").symlink_to("..")
    assert str(tmp_path / "v2/x.jsonl") in map(os.path.realpath, urls(f"{tmp_path}/{glob}"))


def test_a_link_to_a_hidden_folder_is_read(tmp_path: Path) -> None:
    touch(tmp_path, ".v2/x.jsonl")
    (tmp_path / "current").symlink_to(".v2")
    assert urls(tmp_path) == [str(tmp_path / "current/x.jsonl")]


def test_documents_are_read_once_whatever_leads_to_them(tmp_path: Path) -> None:
    touch(tmp_path, "w/real/x.jsonl", "w/k/y.jsonl", "w/z.jsonl")
    for name, target in (("k/l2", "../real"), ("k/loop", ".."), ("a.jsonl", "z.jsonl"), ("again", "real")):
        (tmp_path / "w" / name).symlink_to(target)
    everything = [tmp_path / "w" / name for name in ("k/y.jsonl", "real/x.jsonl", "z.jsonl")]

    def read(*paths: str) -> list[str]:
        found = listed(*(tmp_path / path for path in paths))
        names = [os.path.realpath(file.url) for file in found.files]
        assert len(names) == len(set(names))
        assert all("under another name" in left.reason for left in found.left_out)
        return sorted(names)

    assert urls(tmp_path / "w") == [str(path) for path in everything]
    for paths in (
        ["w/k", "w/real", "w"],
        ["w/k/y.jsonl", "w"],
        ["w/*/*/*.jsonl", "w/real", "w"],
        ["w/a.jsonl", "w"],
        ["w/**/*.jsonl"],
        ["w/*/x.jsonl", "w/k/*/*", "w/a.jsonl", "w/k"],
    ):
        assert read(*paths) == [str(path) for path in everything]
    assert [
        (left.reason, left.files, left.example) for left in listed(tmp_path / "w/k/l2", tmp_path / "w/real").left_out
    ] == [("files that are read under another name", 1, str(tmp_path / "w/real/x.jsonl"))]


def test_links_in_all_directions_end(tmp_path: Path) -> None:
    touch(tmp_path, "x.jsonl")
    for number in range(12):
        (tmp_path / f"loop{number}").symlink_to(".")
    assert urls(tmp_path) == urls(f"{tmp_path}/**/*.jsonl") == [str(tmp_path / "x.jsonl")]


def test_a_broken_link_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl")
    (tmp_path / "gone.jsonl").symlink_to("nowhere")
    for path in (tmp_path, f"{tmp_path}/*.jsonl", tmp_path / "gone.jsonl"):
        with pytest.raises(InputError, match=r"gone\.jsonl: a broken link"):
            listed(path)
    assert len(listed(tmp_path, exclude=["gone.*"]).files) == 1


def test_a_link_out_of_the_roots_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/x.jsonl", "data/a.jsonl")
    (tmp_path / "data/link").symlink_to("../elsewhere")
    spec = CorpusSpec(paths=[str(tmp_path / "data")])
    with pytest.raises(InputError, match=r"data/link: a link in it leads out of the corpus roots"):
        find_files(spec, Roots([str(tmp_path / "data")]))
    assert len(find_files(spec, Roots([str(tmp_path)])).files) == 2


@pytest.mark.usefixtures("no_credentials")
def test_a_store_that_takes_no_request_is_named() -> None:
    with pytest.raises(InputError, match=r"^s3://bucket/x: cannot be read \(Unable to locate credentials\)$"):
        listed("s3://bucket/x")
