"""Which files a corpus is: paths, folders, globs and fsspec URLs, resolved to files in plan order."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pruner.errors import InputError

Compression = Literal["gzip", "zstd"]
# The longest suffix decides.
FORMATS: dict[str, tuple[Literal["parquet", "jsonl"], Compression | None]] = {
    ".parquet": ("parquet", None),
    ".jsonl": ("jsonl", None),
    ".jsonl.gz": ("jsonl", "gzip"),
    ".jsonl.zst": ("jsonl", "zstd"),
}
_KINDS = ", ".join(FORMATS)


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus as it was when it was found. `version` changes when the file does: mtime or etag."""

    url: str  # an absolute local path, or a URL
    format: Literal["parquet", "jsonl"]
    compression: Compression | None
    size: int  # bytes
    version: str

    def open(self) -> BinaryIO:
        """A seekable reader. Raises InputError naming the file."""
        try:
            fs, path = _filesystem(self.url)
            return cast(BinaryIO, fs.open(path, "rb"))
        except OSError as error:
            raise InputError(f"{self.url}: cannot be opened ({reason(error)})") from None

    def now(self) -> "CorpusFile":
        """The same file as it is now. Raises InputError if it is gone."""
        fs, path = _filesystem(self.url)
        try:
            return _corpus_file(fs, path)
        except OSError as error:
            raise InputError(f"{self.url}: cannot be read any more ({reason(error)})") from None


def find_files(paths: Sequence[str]) -> list[CorpusFile]:
    """The files of a corpus: the paths in the order given, a folder or glob sorted by name, a file twice only once.

    Raises InputError for a path that is missing, matches nothing or is no corpus file.
    """
    found: dict[str, CorpusFile] = {}
    for path in paths:
        for file in _expand(path):
            found.setdefault(file.url, file)
    return list(found.values())


def _expand(path: str) -> Iterator[CorpusFile]:
    fs, inner = _filesystem(path)
    try:
        if fs.isfile(inner):
            names = [inner]
        elif fs.isdir(inner):
            names = sorted(name for name in fs.find(inner) if _format(name) and not _hidden(name, inner))
            if not names:
                raise InputError(f"{path}: the folder holds no {_KINDS} file")
        elif glob.has_magic(inner):
            matched = sorted(cast(list[str], fs.glob(inner)))
            names = [name for name in matched if fs.isfile(name) and (_format(name) or len(matched) == 1)]
            if not names:
                raise InputError(f"{path}: the pattern matches no {_KINDS} file")
        else:
            raise InputError(f"{path}: no such file or folder")
        for name in names:
            yield _corpus_file(fs, name)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


def _hidden(name: str, folder: str) -> bool:
    """Whether a file below a folder is one that tools put there for themselves."""
    return any(part.startswith((".", "_")) for part in os.path.relpath(name, folder).split("/"))


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url}: cannot be opened ({reason(error)})") from None
    # One name a file: `..` goes, which Path.absolute() would keep. Links stay as the user wrote them.
    return fs, os.path.abspath(path) if isinstance(fs, LocalFileSystem) else str(path)  # noqa: PTH100


def _format(name: str) -> tuple[Literal["parquet", "jsonl"], Compression | None] | None:
    lower = name.lower()
    return next((FORMATS[suffix] for suffix in sorted(FORMATS, key=len, reverse=True) if lower.endswith(suffix)), None)


def _corpus_file(fs: Any, path: str) -> CorpusFile:
    kind = _format(path)
    if kind is None:
        raise InputError(f"{path}: not a corpus file; give {_KINDS}")
    info = fs.info(path)
    version = next((str(info[key]) for key in ("ETag", "etag", "LastModified", "created") if info.get(key)), "")
    url = path
    if isinstance(fs, LocalFileSystem):
        version = str(Path(path).stat().st_mtime_ns)
    else:
        url = str(fs.unstrip_protocol(path))
    return CorpusFile(url, *kind, size=int(info["size"]), version=version)


def reason(error: BaseException) -> str:
    """An error's cause in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
