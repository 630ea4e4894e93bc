"""The objects of an object store below a folder, page by page where the store has pages."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

Info = dict[str, Any]  # what fsspec says of an object


def is_folder(fs: Any, path: str) -> bool:
    """Whether a path is a folder of the store: of S3, whether there is an object below it. May raise OSError."""
    bucket, _, key = path.partition("/")
    if not key or not _has_pages(fs):
        return bool(fs.isdir(path))
    # s3fs lists the whole folder to say so.
    page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/", MaxKeys=1, **fs.req_kw)
    return bool(page.get("Contents"))


def objects_below(fs: Any, folder: str) -> Iterator[tuple[str, Info]]:
    """All objects below a folder: names, and what is known of them. May raise OSError."""
    if _has_pages(fs):
        for name, info in _pages(fs, folder, deep=True):
            if info is not None:
                yield name, info
    else:
        yield from fs.find(folder, detail=True).items()


def objects_in(fs: Any, folder: str) -> Iterator[tuple[str, Info | None]]:
    """The objects in a folder, and its subfolders with None; nothing if there is no such folder. May raise OSError."""
    with suppress(FileNotFoundError):
        if _has_pages(fs):
            yield from _pages(fs, folder, deep=False)
        else:
            for info in fs.ls(folder, detail=True):
                yield info["name"], None if info["type"] == "directory" else info


def _has_pages(fs: Any) -> bool:
    return hasattr(fs, "call_s3")


def _pages(fs: Any, folder: str, *, deep: bool) -> Iterator[tuple[str, Info | None]]:
    """As `objects_in`, from S3; s3fs itself holds all objects in memory, with 2 KB for each."""
    bucket, _, key = folder.partition("/")
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **fs.req_kw}
    if not deep:
        asked["Delimiter"] = "/"
    while True:
        page = fs.call_s3("list_objects_v2", **asked)
        for found in page.get("CommonPrefixes", ()):
            yield f"{bucket}/{found['Prefix'][:-1]}", None
        for found in page.get("Contents", ()):
            yield f"{bucket}/{found['Key']}", {"size": found["Size"], "ETag": found["ETag"]}
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]
