"""Storage: a local folder or any fsspec URL. A file appears complete or not at all."""

import fcntl
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import orjson
from fsspec.implementations.local import LocalFileSystem

from pruner.errors import InputError, as_os_errors

_COPY_BYTES, _READ_BYTES = 1 << 20, 1 << 18  # copied, and read, at a time
_UPLOADS_IN_PARTS = {"s3", "gs"}  # stores to which a file is sent as it is written, and appears when it is complete
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.part")  # names of files and folders that are being written or removed


class StoredFile(NamedTuple):
    """A file of a storage: its path, its size in bytes, and when it was last written, in seconds since 1970."""

    path: str
    size: int
    modified: float


class Storage:
    """Files under one root. Paths are relative to it, with '/' between names. All methods may raise OSError."""

    def __init__(self, url: str) -> None:
        """`url` is a local path or an fsspec URL. Raises InputError if it cannot be opened as a folder."""
        try:
            # No listings cache: other processes write here too.
            files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InputError(f"{url}: cannot be opened as a folder ({error})") from None
        self._fs = _FileSystem(files, url)
        self._local = Path(self._root).absolute() if isinstance(files, LocalFileSystem) else None
        self.url = str(self._local) if self._local is not None else url.rstrip("/")

    def open(self, path: str) -> BinaryIO:
        """Opens a seekable reader. Raises FileNotFoundError."""
        if self._local is not None:
            return (self._local / path).open("rb")
        return cast(BinaryIO, self._fs.open(self._full(path), "rb"))

    def read_bytes(self, path: str) -> bytes:
        """The content of a file. Raises FileNotFoundError."""
        if self._local is not None:
            with io.FileIO(f"{self._local}/{path}") as file:  # in half of the time of a Path
                return file.readall()
        return cast(bytes, self._fs.cat_file(self._full(path)))

    def read_slice(self, path: str, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of a file at once, fewer at its end. Raises FileNotFoundError."""
        if stop <= start:
            return b""
        if self._local is None:
            return cast(bytes, self._fs.cat_file(self._full(path), start=start, end=stop))
        with (self._local / path).open("rb") as file:
            file.seek(start)
            return file.read(stop - start)

    def read_range(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes [start, stop) of a file, in pieces. Raises FileNotFoundError when the first one is taken."""
        with self.open(path) as file:
            file.seek(start)
            while start < stop and (chunk := file.read(min(_READ_BYTES, stop - start))):
                start += len(chunk)
                yield chunk

    def read_json(self, path: str) -> dict[str, Any]:
        """The content of a file as a JSON object. Raises FileNotFoundError."""
        return cast(dict[str, Any], json.loads(self.read_bytes(path)))

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """A writer of a file, which appears or is replaced when the `with` block ends without an exception."""
        if self._local is None:
            with self._uploaded(path) as sent:
                yield sent
            return
        target = self._local / path
        with _temporary(target) as (file, temporary):
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(target)

    @contextmanager
    def _uploaded(self, path: str) -> Iterator[BinaryIO]:
        protocol = self._fs.protocol
        if _UPLOADS_IN_PARTS.isdisjoint([protocol] if isinstance(protocol, str) else protocol):
            with tempfile.NamedTemporaryFile(prefix="winnow-") as spool:
                yield cast(BinaryIO, spool)
                spool.flush()
                self._fs.put_file(spool.name, self._full(path))
            return
        file = self._fs.open(self._full(path), "wb")
        try:
            yield cast(BinaryIO, file)
            with as_os_errors(self.url):
                file.close()
        except BaseException:
            file.closed = True  # else it is completed when it is collected
            file.discard()
            raise

    def write_bytes(self, path: str, data: bytes) -> None:
        """Creates or replaces a file."""
        with self.create(path) as file:
            file.write(data)

    def write_json(self, path: str, value: dict[str, Any]) -> None:
        """Creates or replaces a file with a JSON object; numbers that are not finite become null."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
        self.write_bytes(path, orjson.dumps(value, option=options))

    def create_new(self, path: str, data: bytes) -> bool:
        """Creates a file; returns False, and leaves the file as it is, if there is one already."""
        if self._local is None:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return False
            return True
        target = self._local / path
        with suppress(FileExistsError), _temporary(target) as (file, temporary):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.link(temporary, target)
            return True
        return False

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder at this path."""
        return (self._local / path).exists() if self._local is not None else bool(self._fs.exists(self._full(path)))

    def missing(self, paths: Sequence[str]) -> Sequence[int]:
        """The positions of the paths without a file, ascending. Of several paths the folders are listed."""
        if len(paths) == 1:
            return [] if self.exists(paths[0]) else [0]
        there: dict[str, set[str]] = {}
        absent = []
        for number, path in enumerate(paths):
            folder, _, name = path.rpartition("/")
            if folder not in there:
                there[folder] = set(self.list(folder))
            if name not in there[folder]:
                absent.append(number)
        return absent

    def copy(self, path: str, target: "Storage", name: str) -> None:
        """Copies a file to another storage under a new path. Raises FileNotFoundError."""
        with self.open(path) as source, target.create(name) as copied:
            shutil.copyfileobj(source, copied, _COPY_BYTES)

    def size(self, path: str) -> int:
        """The size of a file in bytes. Raises FileNotFoundError."""
        if self._local is not None:
            return (self._local / path).stat().st_size
        return int(self._fs.info(self._full(path))["size"])

    def list(self, folder: str) -> list[str]:
        """The sorted names in a folder, without files that are being written; empty if there is no such folder."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if self._local is not None:
                names = os.listdir(self._local / folder)  # noqa: PTH208
            else:
                names = [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in self._fs.ls(self._full(folder), False)]
            return sorted(name for name in names if not name.endswith(".part"))
        return []

    def files(self, folder: str) -> Iterator[StoredFile]:
        """All files in a folder and below, without those that are being written, in no order."""
        if self._local is not None:
            for parent, _, names in os.walk(self._local / folder):
                for file in (Path(parent, name) for name in names if not name.endswith(".part")):
                    with suppress(FileNotFoundError):
                        found = file.stat()
                        yield StoredFile(str(file.relative_to(self._local)), found.st_size, found.st_mtime)
            return
        root = self._fs._strip_protocol(self._full(""))
        for name, about in self._fs.find(self._full(folder), detail=True).items():
            # Object stores name it differently.
            at = next(about[key] for key in ("LastModified", "mtime", "updated", "created") if key in about)
            path = str(name).removeprefix(str(root).rstrip("/")).lstrip("/")
            yield StoredFile(path, int(about["size"]), _seconds(at))

    def remove(self, path: str) -> None:
        """Removes a file if there is one."""
        with suppress(FileNotFoundError):
            if self._local is not None:
                (self._local / path).unlink()
            else:
                self._fs.rm_file(self._full(path))

    def remove_tree(self, folder: str) -> None:
        """Removes a folder and its content if there is one; on a local disk in one step for readers."""
        with suppress(FileNotFoundError):
            if self._local is not None:
                temporary = _temporary_name(self._local / folder)
                (self._local / folder).rename(temporary)
                shutil.rmtree(temporary, ignore_errors=True)  # a later sweep removes the rest
            else:
                self._fs.rm(self._full(folder), recursive=True)

    def sweep(self, folder: str = "") -> int:
        """Removes the temporary files that killed writers left in a folder and below; returns how many.

        A living writer holds a lock on its file, so its file stays. Object stores have no temporary files.
        """
        if self._local is None:
            return 0
        count = 0
        for parent, folders, files in os.walk(self._local / folder):
            for name in filter(_TEMPORARY.fullmatch, files):
                count += _removed(Path(parent, name))
            for name in [*filter(_TEMPORARY.fullmatch, folders)]:
                folders.remove(name)
                shutil.rmtree(Path(parent, name), ignore_errors=True)
                count += 1
        return count

    def local(self, path: str) -> Path | None:
        """The path on the local disk, or None if the storage is remote."""
        return self._local / path if self._local is not None else None

    def _full(self, path: str) -> str:
        return f"{str(self._root).rstrip('/')}/{path}"


class _FileSystem:
    """A file system of fsspec whose errors are OSErrors, those of a store's library too."""

    def __init__(self, files: fsspec.AbstractFileSystem, url: str) -> None:
        self._files = files
        self._url = url

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._files, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            with as_os_errors(self._url):
                return found(*args, **options)

        return call


@contextmanager
def _temporary(target: Path) -> Iterator[tuple[io.BufferedWriter, Path]]:
    """A new locked file in the folder of `target`, which is created; removed in the end unless it was renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = _temporary_name(target)
    try:
        with _locked(path) as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _locked(path: Path) -> io.BufferedWriter:
    """Creates and locks a file, so that no sweep removes it."""
    while True:
        file = path.open("xb")
        with suppress(OSError):  # without locks in the file system, sweeps find none either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # a sweep removed it before it was locked


def _seconds(at: Any) -> float:
    if isinstance(at, str):
        at = datetime.fromisoformat(at.replace("Z", "+00:00"))
    return at.timestamp() if isinstance(at, datetime) else float(at)


def _temporary_name(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")


def _removed(path: Path) -> bool:
    """Removes a file unless a process is writing it; returns whether it did."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:  # removed meanwhile: its writer makes another one of this name
                return False
            path.unlink()
            return True
    except OSError:
        return False  # being written, or just completed
