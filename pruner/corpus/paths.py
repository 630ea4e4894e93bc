"""Corpus paths: parsing what a user gave as a path or URL, and the roots that it must lie under."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pruner.errors import InputError

LOCAL = "file"
WEB = ("http", "https")
# Object stores: each scheme and the name that its aliases share. `memory` is fsspec's store inside this process.
# All other fsspec schemes are refused: many of them reach local files or any host.
_STORES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "abfs", "abfss": "abfs"}
_STORES |= {"hf": "hf", "memory": "memory"}
# The default roots of a service: all local files and object stores, but nothing from the web.
EVERYWHERE = ("/", *(f"{scheme}://" for scheme in dict.fromkeys(_STORES.values())))

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENCODED = re.compile(r"%(25)*(2f|5c|2e|00)", re.IGNORECASE)  # separators, dots and NUL, however often encoded
_BUCKET = re.compile(r"[\w.-]+", re.ASCII)
_CONTAINER = re.compile(r"[\w.-]+@[\w.-]+", re.ASCII)  # container@account, of abfs
_HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)


@dataclass(frozen=True)
class CorpusPath:
    """A parsed path or URL, perhaps a glob. `path` is absolute for scheme `file`, else bucket or host, '/', rest."""

    scheme: str
    path: str

    @property
    def url(self) -> str:
        """The absolute path of a local file, else the URL."""
        return self.path if self.scheme == LOCAL else f"{self.scheme}://{self.path}"

    @property
    def store(self) -> str:
        """The scheme; one name for all aliases of it."""
        return _STORES.get(self.scheme, self.scheme)

    def covers(self, other: "CorpusPath") -> bool:
        """Whether `other` is this path or lies below it, by name: links are not followed."""
        if self.store != other.store:
            return False
        return not self.path or is_below(other.path, self.path)


def parse(text: str) -> CorpusPath:
    """Parses a corpus path that a user gave. A local path becomes absolute; no file system is accessed.

    Raises InputError for everything ambiguous or unsafe: `..`, chained protocols, encoded separators, credentials, and
    schemes other than local files, object stores and the web.
    """
    return _parse(text, root=False)


class Roots:
    """The roots that corpus files must lie under. None: no limit, the web included."""

    def __init__(self, given: Sequence[str] | None = None, called: str = "a corpus root") -> None:
        """`called` names a root in errors. Raises InputError for a root that cannot be parsed."""
        self._roots = [_parse(text, root=True) for text in given or ()]
        self._called = called
        self.given = None if given is None else tuple(root.url for root in self._roots)

    def admit(self, text: str) -> CorpusPath:
        """Parses `text`. Raises InputError unless it lies under a root, by name."""
        path = parse(text)
        if self.given is not None and not any(root.covers(path) for root in self._roots):
            raise InputError(f"{text}: not under {self._called} of this service, which are {', '.join(self.given)}")
        return path

    def check_real(self, named: str, real: str) -> None:
        """Raises InputError unless `real`, the resolved path of the local file `named`, lies under a root."""
        if self.given is None:
            return
        roots = (os.path.realpath(root.path) for root in self._roots if root.scheme == LOCAL)
        if not any(is_below(real, root) for root in roots):
            raise InputError(
                f"{named}: a link in it leads out of the {self._called.partition(' ')[2]}s of this service"
            )


UNRESTRICTED = Roots()


def is_below(path: str, root: str) -> bool:
    """Whether `path` is `root` or lies below it, by name. Both are absolute, or URLs without their schemes."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def _parse(text: str, *, root: bool) -> CorpusPath:
    if _CONTROL.search(text):
        raise InputError(f"{text!r}: a path cannot hold control characters")
    if "::" in text and "://" in text:  # else it is a part of a local name
        raise InputError(f"{text}: chained protocols (::) are not supported; give the file itself")
    if _ENCODED.search(text):
        raise InputError(
            f"{text}: percent-encoded separators are not supported; write the path unencoded, with ? for a literal %"
        )
    scheme, separator, rest = text.partition("://")
    if not separator:
        return _local(text, text)
    scheme = scheme.lower()
    if ".." in rest.split("/"):
        raise InputError(f"{text}: '..' is not supported; write the path without it")
    if scheme == LOCAL:
        if not rest.startswith("/"):
            raise InputError(f"{text}: a file URL must not name a host; write file:///folder/file, or only the path")
        return _local(text, rest)
    if scheme in WEB:
        return _web(text, scheme, rest)
    if scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in (*_STORES, *WEB))
        raise InputError(f"{text}: unsupported scheme; give a local path or one of {known}")
    bucket, _, key = rest.partition("/")
    if root and not rest:
        return CorpusPath(scheme, "")
    if not (_BUCKET.fullmatch(bucket) or (_STORES[scheme] == "abfs" and _CONTAINER.fullmatch(bucket))):
        _refuse_credentials(scheme, bucket)
        raise InputError(f"{text}: {bucket!r} is not a valid bucket name")
    return CorpusPath(scheme, f"{bucket}/{key}".rstrip("/"))


def _local(text: str, path: str) -> CorpusPath:
    path = os.path.expanduser(path)  # noqa: PTH111 (Path raises for an unknown user)
    if ".." in path.split("/"):
        raise InputError(f"{text}: '..' is not supported; write the path without it")
    return CorpusPath(LOCAL, os.path.abspath(path))  # noqa: PTH100 (keeps links, removes `.`)


def _web(text: str, scheme: str, rest: str) -> CorpusPath:
    host, _, path = rest.partition("/")
    host = host.lower()
    if not _HOST.fullmatch(host):
        _refuse_credentials(scheme, host)
        raise InputError(f"{text}: {host!r} is not a valid host name")
    if "?" in path or "#" in path or "\\" in path:
        raise InputError(f"{text}: a web URL must have no query or fragment, as these may hold credentials")
    return CorpusPath(scheme, f"{host}/{path}".rstrip("/"))


def _refuse_credentials(scheme: str, authority: str) -> None:
    if "@" in authority:
        raise InputError(f"{scheme}://…: credentials in URLs are not accepted; set them in the service's environment")
