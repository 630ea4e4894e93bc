"""Unsafe paths are refused, and no accepted path lies outside the roots."""

import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruner.corpus.files import open_path
from pruner.corpus.listing import FoundFile, find_files
from pruner.corpus.paths import EVERYWHERE, UNRESTRICTED, CorpusPath, Roots, is_below, parse
from pruner.errors import InputError
from pruner.spec import CorpusSpec

REFUSED = [
    "/data/../etc/passwd",
    "data/..",
    "file:///data/../etc/passwd",
    "s3://bucket/../other/x.parquet",
    "simplecache::file:///etc/passwd",
    "simplecache::s3://bucket/x",
    "/data/x.parquet::file:///etc/passwd",
    "zip://x.jsonl::/etc/secrets.zip",
    "local:///etc/passwd",
    "reference:///x",
    "github://owner:repo@main/x.jsonl",
    "sftp://host/x.jsonl",
    "ftp://host/x.jsonl",
    "hdfs://host/x.jsonl",
    "gopher://host/x.jsonl",
    "file://host/etc/passwd",
    "file:etc://x",
    "/data/%2e%2e/etc/passwd",
    "s3://bucket/a%2Fb.jsonl",
    "https://host/a%2fb.jsonl",
    "https://host/a%252fb.jsonl",
    "https://host/a%5cb.jsonl",
    "s3://key:secret@bucket/x.jsonl",
    "https://user:password@host/x.jsonl",
    "https://host@other/x.jsonl",
    "abfs://key:secret@bucket/x.jsonl",
    "https://host/x.jsonl?X-Amz-Signature=abc",
    "https://host/x.jsonl#part",
    "https://host\\@other/x.jsonl",
    "https:///x.jsonl",
    "s3:///x.jsonl",
    "s3://*/x.jsonl",
    "/data/x\n.jsonl",
    "/data/x\x00.jsonl",
]


@pytest.mark.parametrize("text", REFUSED)
def test_ambiguous_and_unsafe_paths_are_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value).replace("secrets.zip", "")
    with pytest.raises(InputError):
        Roots(EVERYWHERE).admit(text)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/data/x.parquet", CorpusPath("file", "/data/x.parquet")),
        ("/data//x/./*.parquet", CorpusPath("file", "/data/x/*.parquet")),
        ("file:///data/x.parquet", CorpusPath("file", "/data/x.parquet")),
        ("FILE:///data/x.parquet", CorpusPath("file", "/data/x.parquet")),
        ("s3://bucket/a/b*.parquet", CorpusPath("s3", "bucket/a/b*.parquet")),
        ("s3://bucket/mail@host.jsonl", CorpusPath("s3", "bucket/mail@host.jsonl")),
        ("abfs://container@account/x.jsonl", CorpusPath("abfs", "container@account/x.jsonl")),
        ("hf://datasets/owner/name@main/x.parquet", CorpusPath("hf", "datasets/owner/name@main/x.parquet")),
        ("https://Host.example:8443/x.jsonl", CorpusPath("https", "host.example:8443/x.jsonl")),
        ("/data/..x/x..jsonl", CorpusPath("file", "/data/..x/x..jsonl")),
    ],
)
def test_plain_paths_are_parsed(text: str, path: CorpusPath) -> None:
    assert parse(text) == path
    assert parse(path.url) == path


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("/data/corpus", True),
        ("/data/corpus/a/*.parquet", True),
        ("file:///data/corpus/x.parquet", True),
        ("/data/corpus2/x.parquet", False),
        ("/data", False),
        ("/data/corp*/x.parquet", False),
        ("/", False),
        ("s3://bucket/pile/x.parquet", True),
        ("s3a://bucket/pile/x.parquet", True),
        ("s3://bucket/pile2/x.parquet", False),
        ("s3://bucket", False),
        ("s3://bucket2/pile/x.parquet", False),
        ("gs://bucket/pile/x.parquet", False),
        ("https://host/open/x.jsonl", True),
        ("http://host/open/x.jsonl", False),
        ("https://host:444/open/x.jsonl", False),
        ("https://host.other/open/x.jsonl", False),
    ],
)
def test_only_paths_under_a_root_are_admitted(text: str, inside: bool) -> None:
    roots = Roots(["/data/corpus/", "s3://bucket/pile", "https://host/open/"])
    if inside:
        assert roots.admit(text) == parse(text)
    else:
        with pytest.raises(InputError, match="not under a corpus root of this service, which are /data/corpus, s3://"):
            roots.admit(text)


def test_the_default_roots_leave_out_the_web() -> None:
    roots = Roots(EVERYWHERE)
    for text in ("/etc/x.jsonl", "s3://any/x.jsonl", "gcs://any/x.jsonl", "hf://datasets/a/b/x.jsonl"):
        roots.admit(text)
    for text in ("https://host/x.jsonl", "http://127.0.0.1/x.jsonl"):
        with pytest.raises(InputError, match="not under a corpus root"):
            roots.admit(text)
    Roots(None).admit("https://host/x.jsonl")  # what users type for themselves


def files(roots: Roots, *paths: Path | str) -> list[str]:
    return [file.url for file in found(roots, *paths)]


def found(roots: Roots, *paths: Path | str) -> list[FoundFile]:
    return find_files(CorpusSpec(paths=[str(path) for path in paths]), roots).files


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [("/a", "/a", True), ("/a/b", "/a/", True), ("/ab", "/a", False), ("/", "/a", False), ("/a", "/", True)],
)
def test_is_below(path: str, root: str, below: bool) -> None:
    assert is_below(path, root) == below


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A root `in`, a file and a folder outside it, and links in the root that lead out and that do not."""
    for name in ("in/a.jsonl", "in/deep/b.jsonl", "out/secret.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('{"text": "x"}\n')
    (tmp_path / "in/leads-out.jsonl").symlink_to(tmp_path / "out/secret.jsonl")
    (tmp_path / "in/door").symlink_to(tmp_path / "out")
    (tmp_path / "in/stays.jsonl").symlink_to(tmp_path / "in/deep/b.jsonl")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    return tmp_path


def test_links_out_of_the_roots_are_refused_and_others_are_followed(linked: Path) -> None:
    roots = Roots([str(linked / "in")])
    inside = linked / "in"
    assert files(roots, inside / "a.jsonl", inside / "stays.jsonl", inside / "deep") == [
        str(inside / name)
        for name in ("a.jsonl", "stays.jsonl")  # which is deep/b.jsonl too
    ]
    for path in ("leads-out.jsonl", "door/secret.jsonl", "door", "door/*.jsonl", "*.jsonl", "."):
        with pytest.raises(InputError, match="a link in it leads out"):
            files(roots, f"{inside}/{path}")


def test_a_root_may_be_a_link_itself(linked: Path) -> None:
    assert files(Roots([str(linked / "alias")]), linked / "alias" / "a.jsonl") == [str(linked / "alias/a.jsonl")]


def test_a_link_that_changes_after_planning_is_not_opened(linked: Path) -> None:
    roots = Roots([str(linked / "in")])
    (file,) = found(roots, linked / "in/stays.jsonl")
    open_path(file.path, roots).close()
    (linked / "in/stays.jsonl").unlink()
    (linked / "in/stays.jsonl").symlink_to(linked / "out/secret.jsonl")
    with pytest.raises(InputError, match="a link in it leads out"):
        open_path(file.path, roots)


def test_an_object_name_is_not_parsed_as_chained_protocols(s3_url: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text("secret")
    name = f"simplecache::file://{secret}"
    fsspec.filesystem("s3").pipe_file(f"{s3_url}/{name}", b"open")
    (file,) = found(UNRESTRICTED, s3_url)
    with open_path(file.path, UNRESTRICTED) as source:
        assert source.read() == b"open"


def test_a_local_name_may_hold_colons(tmp_path: Path) -> None:
    path = tmp_path / "a::b.jsonl"
    path.write_text("{}")
    assert [file.path for file in found(UNRESTRICTED, str(path))] == [CorpusPath("file", str(path))]


paths = st.text(st.sampled_from("ab/.:%@?*~\\2fFeE s3htp")) | st.text()


@given(paths)
@example("s3://s3://x")
@example("~root/x")
def test_any_text_is_refused_or_parsed_to_a_stable_path(text: str) -> None:
    try:
        path = parse(text)
    except InputError:
        return
    assert parse(path.url) == path
    assert ".." not in path.path.split("/")
    assert "::" not in path.url or path.scheme == "file"
    assert path.scheme != "file" or os.path.isabs(path.path)  # noqa: PTH117


@given(paths)
def test_admitted_paths_lie_under_the_root_after_normalisation(text: str) -> None:
    try:
        path = Roots(["/data/corpus"]).admit("/data/corpus/" + text)
    except InputError:
        return
    assert path.scheme == "file"
    assert os.path.commonpath([os.path.normpath(path.path), "/data/corpus"]) == "/data/corpus"
