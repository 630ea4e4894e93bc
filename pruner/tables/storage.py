"""A folder on a disk or behind any fsspec URL, whose files appear whole or not at all."""

import fcntl
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import fsspec
import orjson
from fsspec.implementations.local import LocalFileSystem

from pruner.errors import InputError

_BESIDE = re.compile(r"\..+\.[0-9a-f]{32}\.part")  # the names of what is being written or removed


class StoredFile(NamedTuple):
    """A file of a storage: its path there, its bytes, and when it was last written, in seconds since 1970."""

    path: str
    size: int
    modified: float


class Storage:
    """Files under one root. Paths are relative to it, with '/' between names; OSError is raised as the store does."""

    def __init__(self, url: str) -> None:
        try:
            # Another process writes here too: what this one listed a moment ago proves nothing.
            self._fs, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InputError(f"{url}: cannot be opened as a folder ({error})") from None
        self._local = Path(self._root).absolute() if isinstance(self._fs, LocalFileSystem) else None
        self.url = str(self._local) if self._local is not None else url.rstrip("/")

    def open(self, path: str) -> BinaryIO:
        """A seekable reader."""
        if self._local is not None:
            return (self._local / path).open("rb")
        return cast(BinaryIO, self._fs.open(self._full(path), "rb"))

    def read_bytes(self, path: str) -> bytes:
        """A file's whole content."""
        if self._local is not None:
            return (self._local / path).read_bytes()
        return cast(bytes, self._fs.cat_file(self._full(path)))

    def read_json(self, path: str) -> dict[str, Any]:
        """A file's content as a JSON object."""
        return cast(dict[str, Any], json.loads(self.read_bytes(path)))

    @contextmanager
    def create(self, path: str) -> Iterator[BinaryIO]:
        """A writer to a file that appears, or is replaced, when the block ends without an exception."""
        if self._local is None:
            with tempfile.NamedTemporaryFile(prefix="winnow-") as spool:
                yield cast(BinaryIO, spool)
                spool.flush()
                self._fs.put_file(spool.name, self._full(path))
            return
        target = self._local / path
        with _beside(target) as (file, beside):
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
            beside.replace(target)

    def write_bytes(self, path: str, data: bytes) -> None:
        """Makes or replaces a file."""
        with self.create(path) as file:
            file.write(data)

    def write_json(self, path: str, value: dict[str, Any]) -> None:
        """Makes or replaces a file with a JSON object; a number that is not finite becomes null, as JSON has none."""
        options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
        self.write_bytes(path, orjson.dumps(value, option=options))

    def create_new(self, path: str, data: bytes) -> bool:
        """Makes a file if there is none of the name; False if there was, which then stays as it is."""
        if self._local is None:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create")
            except FileExistsError:
                return False
            return True
        target = self._local / path
        with suppress(FileExistsError), _beside(target) as (file, beside):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.link(beside, target)
            return True
        return False

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder of this name."""
        return (self._local / path).exists() if self._local is not None else bool(self._fs.exists(self._full(path)))

    def size(self, path: str) -> int:
        """A file's bytes."""
        if self._local is not None:
            return (self._local / path).stat().st_size
        return int(self._fs.info(self._full(path))["size"])

    def list(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none if it is not there. Files that are still being written do not count."""
        with suppress(FileNotFoundError):
            if self._local is not None:
                names = os.listdir(self._local / folder)  # noqa: PTH208
            else:
                names = [str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in self._fs.ls(self._full(folder), False)]
            return sorted(name for name in names if not name.endswith(".part"))
        return []

    def files(self, folder: str) -> Iterator[StoredFile]:
        """All files in a folder and below, but those that are still being written, in no order."""
        if self._local is not None:
            for parent, _, names in os.walk(self._local / folder):
                for file in (Path(parent, name) for name in names if not name.endswith(".part")):
                    with suppress(FileNotFoundError):
                        found = file.stat()
                        yield StoredFile(str(file.relative_to(self._local)), found.st_size, found.st_mtime)
            return
        root = self._fs._strip_protocol(self._full(""))
        for name, about in self._fs.find(self._full(folder), detail=True).items():
            # Each kind of store has its own name for it.
            at = next(about[key] for key in ("LastModified", "mtime", "updated", "created") if key in about)
            path = str(name).removeprefix(str(root).rstrip("/")).lstrip("/")
            yield StoredFile(path, int(about["size"]), _seconds(at))

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            if self._local is not None:
                (self._local / path).unlink()
            else:
                self._fs.rm_file(self._full(path))

    def remove_tree(self, folder: str) -> None:
        """Removes a folder and all in it, if it is there; on a disk all at once, as a reader sees it."""
        with suppress(FileNotFoundError):
            if self._local is not None:
                beside = _name_beside(self._local / folder)
                (self._local / folder).rename(beside)
                shutil.rmtree(beside, ignore_errors=True)  # what stays is swept
            else:
                self._fs.rm(self._full(folder), recursive=True)

    def sweep(self, folder: str = "") -> int:
        """Removes what killed writers left in a folder and below, and nothing that is being written; how many.

        A writer holds a lock on its file, which ends with its process. A store elsewhere has no such files.
        """
        if self._local is None:
            return 0
        count = 0
        for parent, folders, files in os.walk(self._local / folder):
            for name in filter(_BESIDE.fullmatch, files):
                count += _removed(Path(parent, name))
            for name in [*filter(_BESIDE.fullmatch, folders)]:
                folders.remove(name)
                shutil.rmtree(Path(parent, name), ignore_errors=True)
                count += 1
        return count

    def local(self, path: str) -> Path | None:
        """The path on this machine's disk, or None for a store elsewhere."""
        return self._local / path if self._local is not None else None

    def _full(self, path: str) -> str:
        return f"{str(self._root).rstrip('/')}/{path}"


@contextmanager
def _beside(target: Path) -> Iterator[tuple[io.BufferedWriter, Path]]:
    """A new file beside `target`, locked, gone in the end unless it was renamed; the folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = _name_beside(target)
    try:
        with _locked(path) as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


def _locked(path: Path) -> io.BufferedWriter:
    """A new file that no sweep takes for one whose writer is dead."""
    while True:
        file = path.open("xb")
        with suppress(OSError):  # a file system without locks gives a sweep none either
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # it was swept before it was locked


def _seconds(at: Any) -> float:
    if isinstance(at, str):
        at = datetime.fromisoformat(at.replace("Z", "+00:00"))
    return at.timestamp() if isinstance(at, datetime) else float(at)


def _name_beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")


def _removed(path: Path) -> bool:
    """Removes a file that no process writes; whether it did."""
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            return True
    except OSError:
        return False  # somebody writes it, or has ended doing so
