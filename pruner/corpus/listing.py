"""Finds the files of a corpus: which belong to it, and which are left out and why."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pruner.corpus.globs import matches_any, matches_file
from pruner.corpus.names import KNOWN, left_out_reason, unreadable_reason
from pruner.corpus.paths import LOCAL, UNRESTRICTED, CorpusPath, Roots, is_below
from pruner.corpus.walk import Entry, Listed, list_path
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec

OnListed = Callable[[int], None]


def ignore_listed(_files: int) -> None:
    """For callers that show no progress."""


class FoundFile(NamedTuple):
    """A file that may belong to a corpus: its content decides. There may be millions of them in memory."""

    scheme: str
    place: str  # the path in its file system
    size: int  # bytes
    version: str
    root: str  # of the corpus
    named: bool  # the user named this very file

    @property
    def path(self) -> CorpusPath:
        """Where it is."""
        return CorpusPath(self.scheme, self.place if self.scheme == LOCAL else self.place.lstrip("/"))

    @property
    def url(self) -> str:
        """The absolute path of a local file, else the URL."""
        return self.path.url

    @property
    def relative(self) -> str:
        """The path below the corpus root."""
        return os.path.relpath(self.place, self.root)


@dataclass(frozen=True)
class LeftOut:
    """Files that are no part of a corpus for the same reason; or, of no file, a pattern that does nothing."""

    reason: str
    files: int
    example: str  # the path of one of them, or the pattern


@dataclass
class Listing:
    """The files of a corpus in plan order, those that are left out, and what is wrong with further ones."""

    files: list[FoundFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _left_out: dict[str, LeftOut] = field(default_factory=dict)

    def leave_out(self, why: str, path: str) -> None:
        """Counts a file that is left out."""
        known = self._left_out.get(why)
        self._left_out[why] = LeftOut(why, known.files + 1, known.example) if known else LeftOut(why, 1, shown(path))

    def note_idle(self, rule: str, glob: str) -> None:
        """Notes a pattern of `include` or `exclude` that matches no file."""
        reason = f"no file matches the pattern {glob} of {rule}"
        self._left_out[reason] = LeftOut(reason, 0, glob)

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What is left out, by reason."""
        return tuple(self._left_out[why] for why in sorted(self._left_out))


def find_files(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    on_path: Callable[[str], None] = lambda _path: None,
    ignored: Sequence[str] = (),
    on_listed: OnListed = ignore_listed,
) -> Listing:
    """As `list_files`, but raises InputError for files that look like data but cannot be read."""
    listing = list_files(spec, roots, on_path, ignored, on_listed)
    if listing.problems:
        more = f" (and {len(listing.problems) - 1:,} more files)" if len(listing.problems) > 1 else ""
        raise InputError(f"{listing.problems[0]}{more}")
    return listing


def list_files(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    on_path: Callable[[str], None] = lambda _path: None,
    ignored: Sequence[str] = (),
    on_listed: OnListed = ignore_listed,
) -> Listing:
    """Finds the files of a corpus: paths in the given order, folders and globs sorted by name, each file once.

    The real paths of local files and, with a `/` at the end, of folders in `ignored` are no part of the corpus: they
    are output of the command that asks. `on_path` is called before each path is looked up, `on_listed` now and then
    with the number of files that were listed. Files that look like data but cannot be read are among the problems.
    Raises InputError for a path that is missing, holds nothing to read or does not lie under a root.
    """
    listed = _list_paths(spec, roots, on_path, on_listed)
    common = _common_roots((path.scheme, found.root) for _, path, found in listed)
    choice = _Choice(spec, ignored)
    for text, path, found in listed:
        choice.add(text, path, found, common[path.scheme])
    return choice.complete()


def _list_paths(
    spec: CorpusSpec, roots: Roots, on_path: Callable[[str], None], on_listed: OnListed
) -> list[tuple[str, CorpusPath, Listed]]:
    """What each path of a corpus stands for."""
    listed: list[tuple[str, CorpusPath, Listed]] = []
    files_before = 0
    for text in spec.paths:
        on_path(shown(text))
        path = roots.admit(text)
        try:

            def tell(files: int, before: int = files_before) -> None:
                on_listed(before + files)

            found = list_path(text, path, roots, tell)
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else text
            raise InputError(f"{shown(where)}: cannot be read ({reason(error)})") from None
        listed.append((text, path, found))
        files_before += len(found.entries)
    return listed


class _Choice:
    """Chooses the files of a corpus among those that were listed."""

    def __init__(self, spec: CorpusSpec, ignored: Sequence[str]) -> None:
        self._spec, self._ignored, self._listing = spec, ignored, Listing()
        self._seen: dict[str, dict[str, str]] = {}  # by store, and by real path: the path under which a file is read
        self._idle = {name: set(getattr(spec, name)) for name in ("include", "exclude")}  # patterns without a file

    def add(self, text: str, path: CorpusPath, found: Listed, root: str) -> None:
        """Adds the files of a path. Raises InputError if there is nothing to read."""
        listing, seen = self._listing, self._seen.setdefault(path.store, {})
        ignored = self._ignored if path.scheme == LOCAL else ()
        is_empty, some, files = not found.entries, False, list[FoundFile]()
        for entry in _originals_first(path.scheme, found):
            file = FoundFile(path.scheme, entry.path, entry.size, entry.version, root, entry.named)
            relative = file.relative
            for globs in self._idle.values():
                globs.difference_update([glob for glob in globs if matches_file(relative, glob)])
            known = seen.get(entry.real)
            why = _left_out(entry, relative, self._spec, ignored) if known is None else None
            if why is not None:
                listing.leave_out(why, file.url)
                continue
            some = True
            if known is not None:
                if known != entry.path:
                    listing.leave_out("files that are read under another name", file.url)
                continue
            seen[entry.real] = entry.path
            problem = _problem(entry)
            if problem is None:
                files.append(file)
            else:
                listing.problems.append(f"{shown(file.url)}: {problem}")
        files.sort(key=lambda file: file.place)
        listing.files += files
        if not some:
            raise InputError(_nothing(text, is_empty, self._spec, listing))

    def complete(self) -> Listing:
        """The listing, when all paths were added."""
        for name, globs in self._idle.items():
            for glob in sorted(globs):
                self._listing.note_idle(name, glob)
        return self._listing


def _originals_first(scheme: str, found: Listed) -> Iterator[Entry]:
    """Takes the entries out of a list, those that were found through links at the end."""
    root = len(found.root)
    real_root = len(os.path.realpath(found.root)) if scheme == LOCAL else root
    links: list[Entry] = []
    found.entries.reverse()  # they are in the order of their names
    while found.entries:
        entry = found.entries.pop()
        if entry.path[root:] != entry.real[real_root:]:
            links.append(entry)
        else:
            yield entry
    yield from links


def summarised(left_out: Sequence[LeftOut]) -> str:
    """What is left out, in a line."""
    return "; ".join(f"{found.files:,} {found.reason}, such as {found.example}" for found in left_out)


def shown(path: str) -> str:
    """The path as text, bytes that are not UTF-8 as `\\xe9`."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _common_roots(roots: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The deepest common folder of the roots of each scheme."""
    common: dict[str, str] = {}
    for scheme, root in roots:
        known = common.get(scheme)
        common[scheme] = root if known is None else os.path.commonpath([known, root]) if known and root else ""
    return common


def _left_out(entry: Entry, relative: str, spec: CorpusSpec, ignored: Sequence[str]) -> str | None:
    """Why a file is no part of the corpus, or None if it may be."""
    if any(is_below(entry.real, own.rstrip("/")) if own.endswith("/") else entry.real == own for own in ignored):
        return "output of this command"
    if entry.skipped is not None:
        return entry.skipped
    if matches_any(relative, spec.exclude):
        return "excluded"
    if spec.include and not matches_any(relative, spec.include):
        return "not included"
    return None if entry.named else left_out_reason(relative.rpartition("/")[2])


def _problem(entry: Entry) -> str | None:
    """What is wrong with a file that looks like data, or None."""
    try:
        entry.path.encode()
    except UnicodeEncodeError:
        return "the file name is not valid UTF-8; rename the file, or exclude it"
    return entry.problem or unreadable_reason(entry.path.rpartition("/")[2])


def _nothing(text: str, is_empty: bool, spec: CorpusSpec, listing: Listing) -> str:
    if is_empty:
        return f"{text}: there is no file; a corpus has {KNOWN} files"
    rules = " that include and exclude leave" if spec.include or spec.exclude else ""
    left = summarised(listing.left_out)
    return f"{text}: there is no corpus file{rules}; a corpus has {KNOWN} files (left out: {left})"
