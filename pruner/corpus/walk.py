"""Lists the files below a folder or that match a glob, on this machine or in an object store."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pruner.corpus.files import filesystem, look_up, size_and_version
from pruner.corpus.globs import PathGlob, has_magic
from pruner.corpus.paths import LOCAL, WEB, CorpusPath, Roots
from pruner.corpus.store_pages import Info, is_folder, objects_below, objects_in
from pruner.errors import InputError, as_os_errors

_TELL_EACH = 1_000  # files
_LEADS_OUT = "a link in it leads out of the corpus roots of this service; remove it, or exclude it"


class Entry(NamedTuple):
    """A file that was listed. `problem` says why it can be no corpus file, unless it is left out anyway."""

    path: str  # in its file system
    real: str  # the same with all links resolved
    size: int = 0  # bytes
    version: str = ""
    named: bool = False  # the path that the user gave is the file itself
    skipped: str | None = None  # why it is left out, whatever its name
    problem: str | None = None


class Listed(NamedTuple):
    """The folder that the entries lie below, and the entries in the order of their names."""

    root: str
    entries: list[Entry]


def list_path(text: str, path: CorpusPath, roots: Roots, on_listed: Callable[[int], None]) -> Listed:
    """The files that a path stands for. Raises InputError if it is missing or lies under no root, and OSError.

    `on_listed` is called now and then with the number of files that were listed.
    """
    if path.scheme in WEB:  # web servers cannot list files
        size, version = look_up(path)
        return Listed(path.path.rpartition("/")[0], [Entry(path.path, path.path, size, version, named=True)])
    if path.scheme == LOCAL:
        return _list_local(text, path.path, roots, on_listed)
    with as_os_errors():
        return _list_store(text, path, on_listed)


def is_hidden(relative: str) -> bool:
    """Whether a part of a path starts as the names of tools' internal files do."""
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def _before_magic(path: str) -> str:
    """The parent folder of the first pattern in a path."""
    parts = path.split("/")
    first = next(number for number, part in enumerate(parts) if has_magic(part))
    return "/".join(parts[:first]) or "/"


def _list_local(text: str, path: str, roots: Roots, on_listed: Callable[[int], None]) -> Listed:
    is_glob = has_magic(path) and not os.path.lexists(path)
    root = _before_magic(path) if is_glob else path
    roots.check_real(text, os.path.realpath(root))
    if Path(root).is_dir():
        glob = PathGlob(os.path.relpath(path, root)) if is_glob else None
        entries = sorted(_counted(_Walk(root, roots, glob).entries(), on_listed))
        return Listed(root, [entries[0]._replace(named=True)] if is_glob and len(entries) == 1 else entries)
    if is_glob:
        return Listed(root, [])
    try:
        size, version = look_up(CorpusPath(LOCAL, path))
    except FileNotFoundError:
        cause = "a broken link" if Path(path).is_symlink() else "no such file or folder"
        raise InputError(f"{text}: {cause}") from None
    if not Path(path).is_file():
        raise InputError(f"{text}: neither a file nor a folder")
    return Listed(path.rpartition("/")[0], [Entry(path, os.path.realpath(path), size, version, named=True)])


class _Folder(NamedTuple):
    """A folder to read."""

    relative: str  # to the root of the walk
    state: frozenset[int] | None  # of the glob after its name; None: the glob matches it, and all below is listed
    hidden: bool = False  # all below counts as hidden


class _Walk:
    """Lists the files below a local folder. Links to folders are followed; nothing is read twice in the same way."""

    def __init__(self, root: str, roots: Roots, glob: PathGlob | None) -> None:
        self._root, self._roots, self._glob = root, roots, glob
        # Device and inode of each folder, and how it was read: reading it so again would list the same files.
        self._seen: set[tuple[int, int, frozenset[int] | None, bool]] = set()
        self._folders = [_Folder("", None if glob is None else glob.start)]
        self._links = deque[_Folder]()  # which are read after all others

    def entries(self) -> Iterator[Entry]:
        """The files that match the glob or lie in a folder that does; all files without a glob."""
        while self._folders or self._links:
            yield from self._read(self._folders.pop() if self._folders else self._links.popleft())

    def _read(self, folder: _Folder) -> Iterator[Entry]:
        here = f"{self._root.rstrip('/')}/{folder.relative}" if folder.relative else self._root
        stat, real = Path(here).stat(), os.path.realpath(here)
        way = (stat.st_dev, stat.st_ino, folder.state, folder.hidden)
        if way in self._seen:
            yield Entry(here, real, skipped="links to folders that are listed under another name")
            return
        self._seen.add(way)
        with os.scandir(here) as listing:
            for entry in sorted(listing, key=lambda entry: entry.name):  # of two links always the same is followed
                state = folder.state
                if self._glob is not None and state is not None:
                    state = self._glob.step(state, entry.name)
                    if not state:
                        continue
                    matches = self._glob.matches(state)
                    hidden = False
                else:
                    matches = True
                    hidden = folder.hidden or is_hidden(entry.name)
                if entry.is_dir():
                    relative = f"{folder.relative}/{entry.name}" if folder.relative else entry.name
                    if entry.is_symlink() and not self._is_allowed(entry.path):
                        yield Entry(entry.path, entry.path, problem=_LEADS_OUT)
                    else:
                        below = _Folder(relative, None if matches else state, hidden)
                        (self._links if entry.is_symlink() else self._folders).append(below)
                elif matches:
                    found = self._file(entry, real)
                    yield found._replace(skipped="hidden files") if hidden else found

    def _file(self, entry: "os.DirEntry[str]", folder: str) -> Entry:
        """A file in the folder of this real path."""
        real = f"{folder.rstrip('/')}/{entry.name}"
        real = entry.path if real == entry.path else real  # one string in memory, not two
        if entry.is_symlink():
            real = os.path.realpath(entry.path)
            if not self._is_allowed(entry.path):
                return Entry(entry.path, real, problem=_LEADS_OUT)
            if not Path(entry.path).exists():
                return Entry(entry.path, real, problem="a broken link; mend or remove it, or exclude it")
        if not entry.is_file():
            return Entry(entry.path, real, skipped="devices, pipes and sockets")
        stat = entry.stat()
        return Entry(entry.path, real, stat.st_size, str(stat.st_mtime_ns))

    def _is_allowed(self, path: str) -> bool:
        try:
            self._roots.check_real(path, os.path.realpath(path))
        except InputError:
            return False
        return True


def _list_store(text: str, path: CorpusPath, on_listed: Callable[[int], None]) -> Listed:
    fs, inner = filesystem(path)
    if fs.isfile(inner):
        size, version = size_and_version(fs.info(inner))
        return Listed(inner.rpartition("/")[0], [Entry(inner, inner, size, version, named=True)])
    if is_folder(fs, inner):
        return Listed(inner, sorted(_counted(_stored_below(fs, inner), on_listed)))
    if not has_magic(inner):
        raise InputError(f"{text}: no such file or folder")
    root = _before_magic(inner)
    glob = PathGlob(inner[len(root) :].lstrip("/"))
    found = sorted(_counted(_stored_matching(fs, root, glob), on_listed))
    return Listed(root, [found[0]._replace(named=True)] if len(found) == 1 else found)


def _counted(entries: Iterable[Entry], on_listed: Callable[[int], None]) -> Iterator[Entry]:
    """The entries; `on_listed` is called with their number after each thousand."""
    for number, entry in enumerate(entries, 1):
        if number % _TELL_EACH == 0:
            on_listed(number)
        yield entry


def _stored_below(fs: Any, folder: str) -> Iterator[Entry]:
    """All objects below a folder of a store."""
    for name, info in objects_below(fs, folder):
        if not _is_marker(name, info):
            hidden = is_hidden(name[len(folder) :].lstrip("/"))
            yield _stored(name, info)._replace(skipped="hidden files" if hidden else None)


def _stored_matching(fs: Any, root: str, glob: PathGlob) -> Iterator[Entry]:
    """The objects of a store that match the glob or lie in a folder that does."""
    folders = [(root, glob.start)]
    while folders:
        folder, before = folders.pop()
        for name, info in objects_in(fs, folder):
            state = glob.step(before, name.rpartition("/")[2])
            if info is None and glob.matches(state):
                yield from _stored_below(fs, name)
            elif info is None and state:
                folders.append((name, state))
            elif info is not None and glob.matches(state) and not _is_marker(name, info):
                yield _stored(name, info)


def _stored(name: str, info: Info) -> Entry:
    return Entry(name, name, *size_and_version(info))


def _is_marker(name: str, info: Info) -> bool:
    """Whether an object stands for a folder, as consoles and Hadoop make them."""
    return name.endswith("/") and not info["size"]
