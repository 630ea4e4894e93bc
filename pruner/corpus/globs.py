"""Globs of corpus paths and of include and exclude lists. `*` and `?` stop at `/`; `**` crosses folders."""

import re
from collections.abc import Sequence
from functools import lru_cache

from pruner.errors import InputError

_MAGIC = re.compile(r"[*?[]")
_LEADING = re.compile(r"^(\.?/)+")


def has_magic(text: str) -> bool:
    """Whether a text holds a pattern."""
    return _MAGIC.search(text) is not None


@lru_cache(maxsize=10_000)
def compile_glob(glob: str) -> re.Pattern[str]:
    """A regular expression that matches the whole of a path which the glob matches. Raises InputError."""
    parts = glob.split("/")
    made = ""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == "**":
            made += ".*" if last else "(?:.*/)?"
        else:
            made += _part(part) + ("" if last else "/")
    try:
        return re.compile(made, re.DOTALL)
    except re.error:
        raise InputError(f"{glob}: not a valid pattern; check its brackets") from None


def _part(glob: str) -> str:
    made, i = "", 0
    while i < len(glob):
        char = glob[i]
        end = glob.find("]", i + 2 if glob[i + 1 : i + 2] not in ("!", "^") else i + 3) if char == "[" else -1
        if char == "*":
            made += "[^/]*"
        elif char == "?":
            made += "[^/]"
        elif end > 0:
            inside = glob[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            made += f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
            i = end
        else:
            made += re.escape(char)
        i += 1
    return made


def matches_any(relative: str, globs: Sequence[str]) -> bool:
    """Whether a glob matches the relative path of a file, or its name if the glob has no `/`.

    A leading `/` or `./` says that a glob is a relative path, and is no part of it. `a/` is all that lies below `a`.
    """
    return any(matches_file(relative, glob) for glob in globs)


def matches_file(relative: str, glob: str) -> bool:
    """As `matches_any`, for one glob."""
    if "/" not in glob:
        return compile_glob(glob).fullmatch(relative.rpartition("/")[2]) is not None
    path = _LEADING.sub("", glob)
    return compile_glob(f"{path}**" if glob.endswith("/") else path).fullmatch(relative) is not None


class PathGlob:
    """The glob of a corpus path below the folder before its first pattern. It is matched name by name.

    A state is the set of parts of the glob that may come next; it says all that matters of the names before.
    """

    def __init__(self, glob: str) -> None:
        self._parts = glob.split("/")
        self._patterns = [compile_glob(part) for part in self._parts]
        self._hidden = any(part.startswith(".") for part in self._parts)
        self.start = self._skip({0})

    def step(self, state: frozenset[int], name: str) -> frozenset[int]:
        """The state after one more name; empty if nothing below can match. As in shells, `*` matches no leading dot."""
        if name.startswith(".") and not self._hidden:
            return frozenset()
        after = set[int]()
        for at in state:
            if at < len(self._parts) and self._parts[at] == "**":
                after |= {at, at + 1} if at + 1 == len(self._parts) else {at}
            elif at < len(self._parts) and self._patterns[at].fullmatch(name):
                after.add(at + 1)
        return self._skip(after)

    def matches(self, state: frozenset[int]) -> bool:
        """Whether the names so far match the whole glob."""
        return len(self._parts) in state

    def _skip(self, state: set[int]) -> frozenset[int]:
        """Adds the parts after each `**`, which may stand for no folder; as the last part it stands for some name."""
        for at in range(len(self._parts) - 1):
            if at in state and self._parts[at] == "**":
                state.add(at + 1)
        return frozenset(state)
