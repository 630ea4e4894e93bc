"""Corpus files: resolves paths, folders, globs and URLs to files in plan order, and opens them."""

import glob
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import fsspec

from pruner.corpus.http_file import HttpFile
from pruner.corpus.paths import LOCAL, UNRESTRICTED, WEB, CorpusPath, Roots
from pruner.errors import InputError, reason

Compression = Literal["gzip", "zstd"]
# The longest suffix decides.
FORMATS: dict[str, tuple[Literal["parquet", "jsonl"], Compression | None]] = {
    ".parquet": ("parquet", None),
    ".jsonl": ("jsonl", None),
    ".jsonl.gz": ("jsonl", "gzip"),
    ".jsonl.zst": ("jsonl", "zstd"),
}
_SUFFIXES = ", ".join(FORMATS)
_HTTP_BUFFER_BYTES = 1 << 20  # requested at a time


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus, as it was when it was found."""

    path: CorpusPath
    format: Literal["parquet", "jsonl"]
    compression: Compression | None
    size: int  # bytes
    version: str  # changes when the file does: modification time or ETag
    footer: str | None = None  # SHA-256 of a Parquet footer, once the file is planned

    @property
    def url(self) -> str:
        """The absolute path of a local file, else the URL."""
        return self.path.url

    def open(self, roots: Roots = UNRESTRICTED) -> BinaryIO:
        """Opens a seekable reader. Raises InputError naming the file, also if it no longer lies under a root."""
        try:
            if self.path.scheme in WEB:
                return cast(BinaryIO, io.BufferedReader(HttpFile(self.url), _HTTP_BUFFER_BYTES))
            if self.path.scheme != LOCAL:
                fs, inner = _filesystem(self.path)
                return cast(BinaryIO, fs.open(inner, "rb"))
            source = Path(self.path.path).open("rb")  # noqa: SIM115 (the caller closes it)
        except OSError as error:
            raise InputError(f"{self.url}: cannot be opened ({reason(error)})") from None
        try:
            # Check the file that was opened, not its name: links may change at any time.
            roots.check_real(self.url, os.path.realpath(f"/proc/self/fd/{source.fileno()}"))
        except InputError:
            source.close()
            raise
        return source

    def is_unchanged(self) -> bool:
        """Whether size and version are still the same. Raises InputError if the file is gone."""
        try:
            return replace(_corpus_file(self.path), footer=self.footer) == self
        except OSError as error:
            raise InputError(f"{self.url}: cannot be read any more ({reason(error)})") from None


def find_files(
    paths: Sequence[str], roots: Roots = UNRESTRICTED, on_path: Callable[[str], None] = lambda _path: None
) -> list[CorpusFile]:
    """Finds the files of a corpus: paths in the given order, folders and globs sorted by name, each file once.

    `on_path` is called before each path is looked up. Raises InputError for a path that is missing, matches nothing, is
    not a corpus file or does not lie under a root.
    """
    found: dict[str, CorpusFile] = {}
    for path in paths:
        on_path(path)
        for file in _expand(path, roots):
            found.setdefault(file.url, file)
    return list(found.values())


def _expand(text: str, roots: Roots) -> Iterator[CorpusFile]:
    path = roots.admit(text)
    try:
        if path.scheme in WEB:  # web servers cannot list files
            yield _corpus_file(path)
            return
        if path.scheme == LOCAL:
            # Before anything is listed, check the part of the path without patterns; later each file.
            roots.check_real(text, os.path.realpath(_before_magic(path.path)))
        for name in _names(text, path):
            if path.scheme == LOCAL:
                roots.check_real(name, os.path.realpath(name))
            yield _corpus_file(CorpusPath(path.scheme, name if path.scheme == LOCAL else name.lstrip("/")))
    except OSError as error:
        raise InputError(f"{text}: cannot be read ({reason(error)})") from None


def _names(text: str, path: CorpusPath) -> list[str]:
    """The names of the files that a path stands for, in its file system. Raises InputError if there are none."""
    fs, inner = _filesystem(path)
    if fs.isfile(inner):
        return [inner]
    if fs.isdir(inner):
        names = sorted(name for name in fs.find(inner) if _format(name) and not _hidden(name, inner, ".", "_"))
        if not names:
            raise InputError(f"{text}: the folder holds no {_SUFFIXES} file")
        return names
    if not glob.has_magic(inner):
        raise InputError(f"{text}: no such file or folder")
    above = _before_magic(inner)
    # As in shells, a pattern matches a leading dot only if it has one itself.
    wants_hidden = _hidden(inner, above, ".")
    matched = [n for n in sorted(cast(list[str], fs.glob(inner))) if wants_hidden or not _hidden(n, above, ".")]
    names = [name for name in matched if fs.isfile(name) and (_format(name) or len(matched) == 1)]
    if not names:
        raise InputError(f"{text}: the pattern matches no {_SUFFIXES} file")
    return names


def _before_magic(path: str) -> str:
    """The parent folder of the first pattern in a path; the whole path if it exists or has no pattern."""
    if os.path.lexists(path):
        return path
    plain = itertools.takewhile(lambda part: not glob.has_magic(part), path.split("/"))
    return "/".join(plain) or "/"


def _hidden(name: str, folder: str, *prefixes: str) -> bool:
    """Whether a part of `name` below `folder` starts with one of the prefixes, as tools' internal files do."""
    return any(part.startswith(prefixes) for part in os.path.relpath(name, folder).split("/"))


def _filesystem(path: CorpusPath) -> tuple[Any, str]:
    """The fsspec file system of a path, and the path inside it."""
    try:
        kind = fsspec.get_filesystem_class(path.scheme)
        # Not fsspec.core.url_to_fs: it would parse a name with `::` as chained protocols.
        fs = kind(use_listings_cache=False, **kind._get_kwargs_from_urls(path.url))
    except (ImportError, ValueError) as error:
        raise InputError(f"{path.url}: cannot be opened ({reason(error)})") from None
    return fs, path.path if path.scheme == LOCAL else str(kind._strip_protocol(path.url))


def _format(name: str) -> tuple[Literal["parquet", "jsonl"], Compression | None] | None:
    lower = name.lower()
    return next((FORMATS[suffix] for suffix in sorted(FORMATS, key=len, reverse=True) if lower.endswith(suffix)), None)


def _corpus_file(path: CorpusPath) -> CorpusFile:
    try:
        path.path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{path.url!r}: the file name is not valid UTF-8; rename the file") from None
    kind = _format(path.path)
    if kind is None:
        raise InputError(f"{path.url}: not a corpus file; give {_SUFFIXES}")
    if path.scheme == LOCAL:
        found = Path(path.path).stat()
        return CorpusFile(path, *kind, size=found.st_size, version=str(found.st_mtime_ns))
    if path.scheme in WEB:
        with HttpFile(path.url) as file:
            return CorpusFile(path, *kind, size=file.size, version=file.version)
    fs, inner = _filesystem(path)
    info = fs.info(inner)
    version = next((str(info[key]) for key in ("ETag", "etag", "LastModified", "created") if info.get(key)), "")
    return CorpusFile(path, *kind, size=int(info["size"]), version=version)
