"""A file at an http(s) URL, read with range requests: public addresses only, pinned DNS, no redirects."""

import http.client
import io
import ipaddress
import socket
import ssl
from typing import Any
from urllib.parse import quote, urlsplit

from pruner.errors import InputError

_TIMEOUT_SECONDS = 30.0  # for a response, and between two pieces of it
_ATTEMPTS = 3  # of a request whose connection breaks
# IPv6 prefixes that tunnel to IPv4 (NAT64 and 6to4), which `is_global` does not check.
_TUNNELS = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16")]


class HttpFile(io.RawIOBase):
    """A seekable reader of an http(s) URL. `size` in bytes; `version` is the ETag, else Last-Modified.

    Raises InputError naming the URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        parts = urlsplit(url)
        self._path = quote(parts.path, safe="/%~") or "/"
        self._connection = _Pinned(url, parts.hostname or "", parts.port, secure=parts.scheme == "https")
        self._position = 0
        self.size, self.version = 0, ""
        _, answer = self._get(0, 1)
        total = (answer.getheader("Content-Range") or "").rpartition("/")[2]
        if not (total.isascii() and total.isdigit()):
            raise InputError(
                f"{url}: the server does not send the file's size; use a server that supports range requests"
            )
        self.size = int(total)
        self.version = _version(answer)

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The current position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Sets the position; returns it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer`, or reads up to the end of the file; returns the number of bytes."""
        stop = min(self.size, self._position + len(buffer))
        if stop <= self._position:
            return 0
        body, answer = self._get(self._position, stop)
        if _version(answer) != self.version:
            raise InputError(f"{self._url}: changed while it was read; submit the job again")
        buffer[: len(body)] = body
        self._position += len(body)
        return len(body)

    def readall(self) -> bytes:
        """Reads the rest of the file in one request."""
        return self.read(max(0, self.size - self._position)) or b""

    def close(self) -> None:
        """Closes the connection."""
        if "_connection" in self.__dict__:  # else __init__ failed
            self._connection.close()
        super().close()

    def _get(self, start: int, stop: int) -> tuple[bytes, http.client.HTTPResponse]:
        """Requests bytes [start, stop) and returns all of them."""
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity", "User-Agent": "winnow"}
        for attempt in range(_ATTEMPTS):
            try:
                self._connection.request("GET", self._path, headers=headers)
                answer = self._connection.getresponse()
                if answer.status == 206:
                    body = answer.read(stop - start)
                    if len(body) == stop - start and answer.read(1) == b"":
                        return body, answer
                    raise http.client.IncompleteRead(body)
                if answer.status == 416 and start == 0:  # an empty file has no first byte
                    answer.read(1 << 16)
                    return b"", answer
                self._raise_for_status(answer)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if attempt + 1 == _ATTEMPTS or isinstance(error, ssl.SSLCertVerificationError):
                    raise InputError(f"{self._url}: cannot be read ({error or type(error).__name__})") from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _raise_for_status(self, answer: http.client.HTTPResponse) -> None:
        self._connection.close()
        if 300 <= answer.status < 400:
            raise InputError(f"{self._url}: redirects are not followed; give the final URL")
        if answer.status == 200:
            raise InputError(
                f"{self._url}: the server does not support range requests; use another server or download the file"
            )
        raise InputError(f"{self._url}: the server responds with {answer.status} {answer.reason}")


class _Pinned(http.client.HTTPConnection):
    """A connection to the public addresses of the first DNS lookup: later DNS answers cannot redirect it."""

    def __init__(self, url: str, host: str, port: int | None, *, secure: bool) -> None:
        super().__init__(host, port or (443 if secure else 80), timeout=_TIMEOUT_SECONDS)
        self._tls = ssl.create_default_context() if secure else None
        try:
            found = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise InputError(f"{url}: unknown host ({error})") from None
        self._addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not all(is_public(address) for address in self._addresses):
            raise InputError(f"{url}: the host has a private address; only public addresses are read")

    def connect(self) -> None:
        """Connects to the first address that accepts the connection."""
        for number, address in enumerate(self._addresses):
            try:
                self.sock = socket.create_connection((address, self.port), self.timeout)
                break
            except OSError:
                if number + 1 == len(self._addresses):
                    raise
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    tunnel = ip.version == 6 and any(ip in network for network in _TUNNELS)
    return ip.is_global and not ip.is_multicast and not tunnel


def _version(answer: http.client.HTTPResponse) -> str:
    return answer.getheader("ETag") or answer.getheader("Last-Modified") or ""
