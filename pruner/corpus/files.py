"""A file of a corpus: how it is opened, and whether it is still as it was found."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from pruner.corpus.http_file import HttpFile
from pruner.corpus.names import Codec, Format
from pruner.corpus.paths import LOCAL, UNRESTRICTED, WEB, CorpusPath, Roots
from pruner.errors import InputError, reason

_HTTP_BUFFER_BYTES = 1 << 20  # requested at a time


@dataclass(frozen=True)
class CorpusFile:
    """One file of a corpus, as it was when it was planned."""

    path: CorpusPath
    format: Format
    compression: Codec | None
    size: int  # bytes
    version: str  # changes when the file does: modification time or ETag
    relative: str = ""  # the path below the corpus root; "" in plans of earlier versions
    footer: str | None = None  # SHA-256 of a Parquet footer

    @property
    def url(self) -> str:
        """The absolute path of a local file, else the URL."""
        return self.path.url

    def open(self, roots: Roots = UNRESTRICTED) -> BinaryIO:
        """Opens a seekable reader. Raises InputError naming the file, also if it no longer lies under a root."""
        return open_path(self.path, roots)

    def is_unchanged(self) -> bool:
        """Whether size and version are still the same. Raises InputError if the file is gone."""
        try:
            return look_up(self.path) == (self.size, self.version)
        except OSError as error:
            raise InputError(f"{self.url}: cannot be read any more ({reason(error)})") from None


def open_path(path: CorpusPath, roots: Roots) -> BinaryIO:
    """Opens a seekable reader. Raises InputError naming the file, also if it lies under no root."""
    try:
        if path.scheme in WEB:
            return cast(BinaryIO, io.BufferedReader(HttpFile(path.url), _HTTP_BUFFER_BYTES))
        if path.scheme != LOCAL:
            fs, inner = filesystem(path)
            return cast(BinaryIO, fs.open(inner, "rb"))
        source = Path(path.path).open("rb")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise InputError(f"{path.url}: cannot be opened ({reason(error)})") from None
    try:
        # Check the file that was opened, not its name: links may change at any time.
        roots.check_real(path.url, os.path.realpath(f"/proc/self/fd/{source.fileno()}"))
    except InputError:
        source.close()
        raise
    return source


def filesystem(path: CorpusPath) -> tuple[Any, str]:
    """The fsspec file system of a path, and the path inside it. Raises InputError if it cannot be loaded."""
    try:
        kind = fsspec.get_filesystem_class(path.scheme)
        # Not fsspec.core.url_to_fs: it would parse a name with `::` as chained protocols.
        fs = kind(use_listings_cache=False, **kind._get_kwargs_from_urls(path.url))
    except (ImportError, ValueError) as error:
        raise InputError(f"{path.url}: cannot be opened ({reason(error)})") from None
    return fs, path.path if path.scheme == LOCAL else str(kind._strip_protocol(path.url))


def look_up(path: CorpusPath) -> tuple[int, str]:
    """Size in bytes and version of a file. Raises OSError if it is not there."""
    if path.scheme == LOCAL:
        found = Path(path.path).stat()
        return found.st_size, str(found.st_mtime_ns)
    if path.scheme in WEB:
        with HttpFile(path.url) as file:
            return file.size, file.version
    fs, inner = filesystem(path)
    return size_and_version(fs.info(inner))


def size_and_version(info: dict[str, Any]) -> tuple[int, str]:
    """Size in bytes and version of a file by what fsspec says of it."""
    version = next((str(info[key]) for key in ("ETag", "etag", "LastModified", "created") if info.get(key)), "")
    return int(info["size"]), version
