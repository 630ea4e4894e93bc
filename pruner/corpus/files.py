"""Which files a corpus is: paths, folders, globs and URLs, resolved to files in plan order; and opening them."""

import glob
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import fsspec

from pruner.corpus.http_file import WebFile
from pruner.corpus.paths import LOCAL, OWN, WEB, Place, Roots
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
_WEB_BYTES = 1 << 20  # that are asked for at a time


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus as it was when it was found. `version` changes when the file does: mtime or etag."""

    url: str  # an absolute local path, or a URL
    format: Literal["parquet", "jsonl"]
    compression: Compression | None
    size: int  # bytes
    version: str

    def open(self, roots: Roots = OWN) -> BinaryIO:
        """A seekable reader. Raises InputError naming the file, also where it is no longer under a root."""
        place = self._place()
        try:
            if place.scheme in WEB:
                return cast(BinaryIO, io.BufferedReader(WebFile(self.url), _WEB_BYTES))
            if place.scheme != LOCAL:
                return cast(BinaryIO, _filesystem(place)[0].open(_filesystem(place)[1], "rb"))
            source = Path(place.path).open("rb")  # noqa: SIM115 (the caller closes it)
        except OSError as error:
            raise InputError(f"{self.url}: cannot be opened ({reason(error)})") from None
        try:
            # What was opened, not what the name stands for now: links may change at any time.
            roots.check_real(self.url, os.path.realpath(f"/proc/self/fd/{source.fileno()}"))
        except InputError:
            source.close()
            raise
        return source

    def now(self) -> "CorpusFile":
        """The same file as it is now. Raises InputError if it is gone."""
        try:
            return _corpus_file(self._place())
        except OSError as error:
            raise InputError(f"{self.url}: cannot be read any more ({reason(error)})") from None

    def _place(self) -> Place:
        # Not parsed as what a user gives: a bucket may hold names that nobody could ask for.
        scheme, separator, rest = self.url.partition("://")
        return Place(scheme, rest) if separator and not self.url.startswith("/") else Place(LOCAL, self.url)


def find_files(paths: Sequence[str], roots: Roots = OWN) -> list[CorpusFile]:
    """The files of a corpus: the paths in the order given, a folder or glob sorted by name, a file twice only once.

    Raises InputError for a path that is missing, matches nothing, is no corpus file or is not under a root.
    """
    found: dict[str, CorpusFile] = {}
    for path in paths:
        for file in _expand(path, roots):
            found.setdefault(file.url, file)
    return list(found.values())


def _expand(path: str, roots: Roots) -> Iterator[CorpusFile]:
    place = roots.admit(path)
    try:
        if place.scheme in WEB:  # where nothing can be listed
            yield _corpus_file(place)
            return
        if place.scheme == LOCAL:
            # The part that is no pattern, before anything is listed; each file in the end.
            roots.check_real(path, os.path.realpath(_before_magic(place.path)))
        fs, inner = _filesystem(place)
        if fs.isfile(inner):
            names = [inner]
        elif fs.isdir(inner):
            names = sorted(name for name in fs.find(inner) if _format(name) and not _hidden(name, inner, ".", "_"))
            if not names:
                raise InputError(f"{path}: the folder holds no {_KINDS} file")
        elif glob.has_magic(inner):
            above = _before_magic(inner)
            asked = _hidden(inner, above, ".")  # as in shells, by a pattern that has a dot in front
            matched = [n for n in sorted(cast(list[str], fs.glob(inner))) if asked or not _hidden(n, above, ".")]
            names = [name for name in matched if fs.isfile(name) and (_format(name) or len(matched) == 1)]
            if not names:
                raise InputError(f"{path}: the pattern matches no {_KINDS} file")
        else:
            raise InputError(f"{path}: no such file or folder")
        for name in names:
            if place.scheme == LOCAL:
                roots.check_real(name, os.path.realpath(name))
            yield _corpus_file(Place(place.scheme, name if place.scheme == LOCAL else name.lstrip("/")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


def _before_magic(path: str) -> str:
    """The folder above the first part of a path that is a pattern; all of a path that exists or has none."""
    if os.path.lexists(path):
        return path
    plain = itertools.takewhile(lambda part: not glob.has_magic(part), path.split("/"))
    return "/".join(plain) or "/"


def _hidden(name: str, folder: str, *marks: str) -> bool:
    """Whether a part of a path below a folder starts with a mark: tools put such files there for themselves."""
    return any(part.startswith(marks) for part in os.path.relpath(name, folder).split("/"))


def _filesystem(place: Place) -> tuple[Any, str]:
    """The file system of a place and its path there."""
    try:
        kind = fsspec.get_filesystem_class(place.scheme)
        # Not by fsspec's parser of URLs, which would take a name with `::` for a chain of protocols.
        fs = kind(use_listings_cache=False, **kind._get_kwargs_from_urls(place.url))
    except (ImportError, ValueError) as error:
        raise InputError(f"{place.url}: cannot be opened ({reason(error)})") from None
    return fs, place.path if place.scheme == LOCAL else str(kind._strip_protocol(place.url))


def _format(name: str) -> tuple[Literal["parquet", "jsonl"], Compression | None] | None:
    lower = name.lower()
    return next((FORMATS[suffix] for suffix in sorted(FORMATS, key=len, reverse=True) if lower.endswith(suffix)), None)


def _corpus_file(place: Place) -> CorpusFile:
    kind = _format(place.path)
    if kind is None:
        raise InputError(f"{place.url}: not a corpus file; give {_KINDS}")
    if place.scheme == LOCAL:
        found = Path(place.path).stat()
        return CorpusFile(place.path, *kind, size=found.st_size, version=str(found.st_mtime_ns))
    if place.scheme in WEB:
        with WebFile(place.url) as file:
            return CorpusFile(place.url, *kind, size=file.size, version=file.version)
    fs, path = _filesystem(place)
    info = fs.info(path)
    version = next((str(info[key]) for key in ("ETag", "etag", "LastModified", "created") if info.get(key)), "")
    return CorpusFile(place.url, *kind, size=int(info["size"]), version=version)


def reason(error: BaseException) -> str:
    """An error's cause in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
