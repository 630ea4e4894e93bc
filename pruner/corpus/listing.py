"""Finds the files of a corpus: which belong to it, and which are left out and why."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pruner.corpus.globs import matches_any
from pruner.corpus.names import KNOWN, left_out_reason, unreadable_reason
from pruner.corpus.paths import LOCAL, UNRESTRICTED, CorpusPath, Roots, is_below
from pruner.corpus.walk import Entry, Listed, list_path
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
    """The files of a corpus in plan order, those that are left out, and what is wrong with further ones."""

    files: list[FoundFile] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
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
    """As `list_files`, but raises InputError for files that look like data but cannot be read."""
    listing = list_files(spec, roots, on_path, ignored)
    if listing.problems:
        more = f" (and {len(listing.problems) - 1:,} more files)" if len(listing.problems) > 1 else ""
        raise InputError(f"{listing.problems[0]}{more}")
    return listing


def list_files(
    spec: CorpusSpec,
    roots: Roots = UNRESTRICTED,
    on_path: Callable[[str], None] = lambda _path: None,
    ignored: Sequence[str] = (),
) -> Listing:
    """Finds the files of a corpus: paths in the given order, folders and globs sorted by name, each file once.

    The real paths of local files and, with a `/` at the end, of folders in `ignored` are no part of the corpus: they
    are output of the command that asks. `on_path` is called before each path is looked up. Files that look like data
    but cannot be read are among the problems. Raises InputError for a path that is missing, holds nothing to read or
    does not lie under a root.
    """
    listed: list[tuple[str, CorpusPath, Listed]] = []
    for text in spec.paths:
        on_path(shown(text))
        path = roots.admit(text)
        try:
            listed.append((text, path, list_path(text, path, roots)))
        except OSError as error:
            where = error.filename if isinstance(error.filename, str) else text
            raise InputError(f"{shown(where)}: cannot be read ({reason(error)})") from None
    common = _common_roots((path.scheme, found.root) for _, path, found in listed)
    listing, seen = Listing(), dict[tuple[str, str], str]()
    for text, path, found in listed:
        some, files = False, list[FoundFile]()
        for entry in _originals_first(path.scheme, found):
            at = CorpusPath(path.scheme, entry.path if path.scheme == LOCAL else entry.path.lstrip("/"))
            known = seen.get((path.store, entry.real))
            if known is not None:
                some = True
                if known != entry.path:
                    listing.leave_out("files that are read under another name", at.url)
                continue
            relative = os.path.relpath(entry.path, common[path.scheme])
            why = _left_out(entry, relative, spec, ignored if path.scheme == LOCAL else ())
            if why is not None:
                listing.leave_out(why, at.url)
                continue
            some = True
            seen[path.store, entry.real] = entry.path
            problem = _problem(entry)
            if problem is None:
                files.append(FoundFile(at, entry.size, entry.version, relative, entry.named))
            else:
                listing.problems.append(f"{shown(at.url)}: {problem}")
        listing.files += sorted(files, key=lambda file: file.path.path)
        if not some:
            raise InputError(_nothing(text, found.entries, spec, listing))
    return listing


def _originals_first(scheme: str, found: Listed) -> list[Entry]:
    """The entries, those that were found through links at the end."""
    root = len(found.root)
    real_root = len(os.path.realpath(found.root)) if scheme == LOCAL else root
    return sorted(found.entries, key=lambda entry: (entry.path[root:] != entry.real[real_root:], entry.path))


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


def _nothing(text: str, entries: list[Entry], spec: CorpusSpec, listing: Listing) -> str:
    if not entries:
        return f"{text}: there is no file; a corpus has {KNOWN} files"
    rules = " that include and exclude leave" if spec.include or spec.exclude else ""
    left = "; ".join(f"{found.files:,} {found.reason}, such as {found.example}" for found in listing.left_out)
    return f"{text}: there is no corpus file{rules}; a corpus has {KNOWN} files (left out: {left})"
