"""Where a corpus may be read from: a path or URL, parsed once into a typed value, and the roots it must lie under."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pruner.errors import InputError

LOCAL = "file"
WEB = ("http", "https")
# Stores of objects, by the schemes that fsspec knows them by; `memory` is that of this process, and so holds nothing
# that a user could name in a service. Every other scheme of fsspec's is refused: many reach local files or any host.
_STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "abfs", "abfss": "abfs"}
_STORES |= {"hf": "hf", "memory": "memory"}
# What a service reads that was told of no roots: all that its user may, but nothing from the web.
EVERYWHERE = ("/", *(f"{scheme}://" for scheme in dict.fromkeys(_STORES.values())))

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED = re.compile(r"%(25)*(2f|5c|2e|00)", re.IGNORECASE)  # separators, dots and NUL, however often encoded
_BUCKET = re.compile(r"[\w.-]+", re.ASCII)
_CONTAINER = re.compile(r"[\w.-]+@[\w.-]+", re.ASCII)  # container@account, of abfs
_HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class Place:
    """One path or URL, perhaps a pattern. `path` is absolute for `file`; else bucket or host, '/' and the rest."""

    scheme: str
    path: str

    @property
    def url(self) -> str:
        """As users see it: an absolute path, or a URL."""
        return self.path if self.scheme == LOCAL else f"{self.scheme}://{self.path}"

    def covers(self, other: "Place") -> bool:
        """Whether the other is this one or lies below it, by their names alone."""
        if _STORES.get(self.scheme, self.scheme) != _STORES.get(other.scheme, other.scheme):
            return False
        return not self.path or is_below(other.path, self.path)


def parse(text: str) -> Place:
    """Parses what a user gave as a path of a corpus. A local one becomes absolute; nothing is looked up.

    Raises InputError for what could mean another place than it seems to: `..`, chained protocols, encoded separators,
    credentials, a scheme that is none of a local file, a store of objects or the web.
    """
    return _parse(text, root=False)


class Roots:
    """The places that may be read. Without any given: all that this process' user may read, the web included."""

    def __init__(self, given: Sequence[str] | None = None) -> None:
        """Raises InputError for a root that cannot be parsed."""
        self._roots = [_parse(text, root=True) for text in given or ()]
        self.given = None if given is None else tuple(root.url for root in self._roots)

    def admit(self, text: str) -> Place:
        """What `text` names, if it lies under a root by its name. Raises InputError."""
        place = parse(text)
        if self.given is not None and not any(root.covers(place) for root in self._roots):
            raise InputError(f"{text}: not under a corpus root of this service, which are {', '.join(self.given)}")
        return place

    def check_real(self, named: str, real: str) -> None:
        """Raises InputError unless a local file, found by the path `named`, is at a real path under a root."""
        if self.given is None:
            return
        roots = (os.path.realpath(root.path) for root in self._roots if root.scheme == LOCAL)
        if not any(is_below(real, root) for root in roots):
            raise InputError(f"{named}: a link in it leads out of the corpus roots of this service")


OWN = Roots()


def is_below(path: str, root: str) -> bool:
    """Whether `path` is `root` or lies below it, by name. Both are absolute, or URLs without their schemes."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def _parse(text: str, *, root: bool) -> Place:
    if _CONTROL.search(text):
        raise InputError(f"{text!r}: a path cannot hold control characters")
    if "::" in text:
        raise InputError(f"{text}: chained protocols (::) are not read; give the file itself")
    if _ENCODED.search(text):
        raise InputError(f"{text}: encoded separators are not read; write the path plainly, or ? for a literal %")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _local(text, text)
    scheme = scheme.lower()
    if ".." in rest.split("/"):
        raise InputError(f"{text}: '..' is not followed; write the path without it")
    if scheme == LOCAL:
        if not rest.startswith("/"):
            raise InputError(f"{text}: a file URL names no host; write file:///folder/file, or just the path")
        return _local(text, rest)
    if scheme in WEB:
        return _web(text, scheme, rest)
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in (*_STORES, *WEB))
        raise InputError(f"{text}: no scheme that is read; give a local path or one of {known}")
    bucket, _, key = rest.partition("/")
    if root and not rest:
        return Place(scheme, "")
    if not (_BUCKET.fullmatch(bucket) or (_STORES[scheme] == "abfs" and _CONTAINER.fullmatch(bucket))):
        _refuse_credentials(scheme, bucket)
        raise InputError(f"{text}: {bucket!r} is no name of a bucket")
    return Place(scheme, f"{bucket}/{key}".rstrip("/"))


def _local(text: str, path: str) -> Place:
    path = os.path.expanduser(path)  # noqa: PTH111 (Path would raise for a user that is not there)
    if ".." in path.split("/"):
        raise InputError(f"{text}: '..' is not followed; write the path without it")
    return Place(LOCAL, os.path.abspath(path))  # noqa: PTH100 (no link is followed, and `.` goes)


def _web(text: str, scheme: str, rest: str) -> Place:
    host, _, path = rest.partition("/")
    host = host.lower()
    if not _HOST.fullmatch(host):
        _refuse_credentials(scheme, host)
        raise InputError(f"{text}: {host!r} is no name of a host")
    if "?" in path or "#" in path or "\\" in path:
        raise InputError(f"{text}: an address on the web is read without a query, where credentials would stand")
    return Place(scheme, f"{host}/{path}".rstrip("/"))


def _refuse_credentials(scheme: str, authority: str) -> None:
    if "@" in authority:
        raise InputError(f"{scheme}://…: credentials in URLs are not taken; give them to the service's environment")
