"""Globs of corpus paths and of include and exclude lists. `*` and `?` stop at `/`; `**` crosses folders."""

import re
from collections.abc import Sequence
from functools import lru_cache

from pruner.errors import InputError

_MAGIC = re.compile(r"[*?[]")


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
    """Whether a glob matches the relative path of a file, or its name if the glob has no `/`."""
    name = relative.rpartition("/")[2]
    return any(compile_glob(glob).fullmatch(relative if "/" in glob else name) for glob in globs)


class PathGlob:
    """The glob of a corpus path below the folder before its first pattern."""

    def __init__(self, glob: str) -> None:
        parts = glob.split("/")
        self._pattern = compile_glob(glob)
        self._hidden = any(part.startswith(".") for part in parts)
        crossing = parts.index("**") if "**" in parts else len(parts)
        self._prefixes = [compile_glob("/".join(parts[: n + 1])) for n in range(crossing)]
        self._crosses = "**" in parts

    def matches(self, relative: str) -> bool:
        """Whether the glob matches a file or a folder. As in shells, `*` matches no leading dot."""
        return self._pattern.fullmatch(relative) is not None and (self._hidden or not _has_dot(relative))

    def may_match_below(self, folder: str) -> bool:
        """Whether the glob may match something in a folder."""
        depth = folder.count("/")
        if depth >= len(self._prefixes):
            return self._crosses
        return self._prefixes[depth].fullmatch(folder) is not None


def _has_dot(relative: str) -> bool:
    return relative.startswith(".") or "/." in relative
