"""Finds the files of a corpus: which belong to it, and which are left out and why."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pruner.corpus.globs import matches_any
from pruner.corpus.names import KNOWN, left_out_reason, unreadable_reason
from pruner.corpus.paths import LOCAL, UNRESTRICTED, CorpusPath, Roots
from pruner.corpus.walk import Entry, list_path
from pruner.errors import InputError, reason
from pruner.spec import CorpusSpec


@dataclass(frozen=True)
class FoundFile:
    """A file that may belong to a corpus: its content decides."""

    path: CorpusPath
    size: int  # bytes
    version: str
    relative: str  # the path below the corpus root
    named: bool  # the user named this very file

    @property
    def url(self) -> str:
        """The absolute path of a local file, else the URL."""
        return self.path.url


@dataclass(frozen=True)
class LeftOut:
    """Files that are no part of a corpus for the same reason."""

    reason: str
    files: int
    example: str  # the path of one of them


@dataclass
class Listing:
    """The files of a corpus in plan order, and those that are left out."""

    files: list[FoundFile] = field(default_factory=list)
    _left_out: dict[str, LeftOut] = field(default_factory=dict)

    def leave_out(self, why: str, path: str) -> None:
        """Counts a file that is left out."""
        known = self._left_out.get(why)
        self._left_out[why] = LeftOut(why, known.files + 1, known.example) if known else LeftOut(why, 1, shown(path))

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What is left out, by reason."""
        return tuple(self._left_out[why] for why in sorted(self._left_out))


def find_files(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    on_path: Callable[[str], None] = lambda _path: None,
    ignored: Sequence[str] = (),
) -> Listing:
    """Finds the files of a corpus: paths in the given order, folders and globs sorted by name, each file once.

    Local files whose real paths begin with one of `ignored` are no part of the corpus: they are output of the command
    that asks. `on_path` is called before each path is looked up. Raises InputError for a path that is missing, holds
    nothing to read or does not lie under a root, and for files that look like data but cannot be read.
    """
    listed: list[tuple[str, str, str, list[Entry]]] = []  # path as given, scheme, root, entries
    for text in spec.paths:
        on_path(shown(text))
        path = roots.admit(text)
        try:
            root, entries = list_path(text, path, roots)
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else text
            raise InputError(f"{shown(where)}: cannot be read ({reason(error)})") from None
        listed.append((text, path.scheme, root, entries))
    common = _common_roots((scheme, root) for _, scheme, root, _ in listed)
    listing, seen = Listing(), set[tuple[str, str]]()
    for text, scheme, _, entries in listed:
        some = False
        for entry in entries:
            if (scheme, entry.path) in seen:
                some = True
                continue
            relative = os.path.relpath(entry.path, common[scheme])
            if _belongs(entry, relative, spec, tuple(ignored) if scheme == LOCAL else (), listing):
                some = True
                seen.add((scheme, entry.path))
                path = CorpusPath(scheme, entry.path if scheme == LOCAL else entry.path.lstrip("/"))
                listing.files.append(FoundFile(path, entry.size, entry.version, relative, entry.named))
        if not some:
            raise InputError(_nothing(text, entries, spec, listing))
    return listing


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


def _belongs(entry: Entry, relative: str, spec: CorpusSpec, ignored: tuple[str, ...], listing: Listing) -> bool:
    """Whether a file may be part of the corpus; else it is counted as left out. Raises InputError."""
    name = relative.rpartition("/")[2]
    why = entry.skipped
    if ignored and os.path.realpath(entry.path).startswith(ignored):
        why = "output of this command"
    elif why is None and matches_any(relative, spec.exclude):
        why = "excluded"
    elif why is None and spec.include and not matches_any(relative, spec.include):
        why = "not included"
    elif why is None and not entry.named:
        why = left_out_reason(name)
    if why is not None:
        listing.leave_out(why, entry.path)
        return False
    try:
        entry.path.encode()
        problem = entry.problem or unreadable_reason(name)
    except UnicodeEncodeError:
        problem = "the file name is not valid UTF-8; rename the file, or exclude it"
    if problem is not None:
        raise InputError(f"{shown(entry.path)}: {problem}")
    return True


def _nothing(text: str, entries: list[Entry], spec: CorpusSpec, listing: Listing) -> str:
    if not entries:
        return f"{text}: there is no file; a corpus has {KNOWN} files"
    rules = " that include and exclude leave" if spec.include or spec.exclude else ""
    left = "; ".join(f"{found.files:,} {found.reason}, such as {found.example}" for found in listing.left_out)
    return f"{text}: there is no corpus file{rules}; a corpus has {KNOWN} files (left out: {left})"
