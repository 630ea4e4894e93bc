"""HTTP files are read by ranges from public addresses only, without redirects."""

import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from pruner.corpus import http_file
from pruner.corpus.files import CorpusFile
from pruner.corpus.listing import find_files
from pruner.corpus.paths import UNRESTRICTED, Roots
from pruner.errors import InputError
from pruner.spec import CorpusSpec

BODY = b"".join(b'{"text": "line %d"}\n' % i for i in range(100_000))


class Site(BaseHTTPRequestHandler):
    """Serves ranges of BODY at any path; /moved redirects, /whole ignores ranges, /gone is 404."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[list[str]] = []
    etag = '"1"'

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/moved"):
            return self.answer(302, b"", Location="/x.jsonl")
        if self.path.startswith("/gone"):
            return self.answer(404, b"no")
        if self.path.startswith("/whole"):
            return self.answer(200, b"all of it")
        start, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        stop = min(int(last) + 1, len(BODY))
        about = f"bytes {start}-{stop - 1}/{len(BODY)}"
        return self.answer(206, BODY[int(start) : stop], **{"Content-Range": about, "ETag": self.etag})

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    Site.asked, Site.etag = [], '"1"'
    threading.Thread(target=server.serve_forever).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_site(site: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same site, whose private address is treated as a public one."""
    monkeypatch.setattr(http_file, "is_public", lambda _address: True)
    return site


def find(url: str, roots: Roots = UNRESTRICTED) -> CorpusFile:
    (found,) = find_files(CorpusSpec(paths=[url]), roots).files
    return CorpusFile(found.path, "jsonl", None, found.size, found.version, found.relative)


def test_private_addresses_are_refused(site: str) -> None:
    port = site.partition(":")[2]
    for host in ("127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0", "[::1]", "[::ffff:127.0.0.1]"):
        with pytest.raises(InputError, match=r"private|chained"):
            find(f"http://{host}:{port}/x.jsonl")
    assert Site.asked == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("224.0.0.1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert http_file.is_public(address) is public


def test_a_host_stays_at_the_address_that_was_checked(open_site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = http_file.HttpFile(f"http://localhost:{open_site.partition(':')[2]}/x.jsonl")
    looked_up: list[object] = []
    real = socket.getaddrinfo

    def watched(host: str, *more: Any, **named: Any) -> Any:
        looked_up.append(host)
        return real(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    file._connection.close()  # the next read connects again, as after a timeout
    assert file.read(5) == BODY[:5]
    assert "localhost" not in looked_up
    file.close()


def test_a_file_is_read_like_a_local_one(open_site: str) -> None:
    found = find(f"http://{open_site}/x.jsonl", Roots([f"http://{open_site}/"]))
    assert (found.size, found.version, found.relative) == (len(BODY), '"1"', "x.jsonl")
    with found.open() as source:
        assert source.read(5) == BODY[:5]
        source.seek(-7, io.SEEK_END)
        assert source.read() == BODY[-7:]
        source.seek(1000)
        assert source.readline() == BODY[1000 : BODY.index(b"\n", 1000) + 1]
        source.seek(0)
        assert source.read() == BODY
    assert found.is_unchanged()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("moved.jsonl", "redirects are not followed"),
        ("gone.jsonl", "responds with 404"),
        ("whole.jsonl", "does not support range requests"),
    ],
)
def test_responses_without_a_file_are_errors(open_site: str, path: str, said: str) -> None:
    with pytest.raises(InputError, match=f"{path}: .*{said}"):
        find(f"http://{open_site}/{path}")
    assert [asked.strip("/") for asked in Site.asked] == [path]


def test_a_file_that_changes_while_it_is_read_is_named(open_site: str) -> None:
    found = find(f"http://{open_site}/x.jsonl")
    with found.open() as source:
        source.read(10)
        Site.etag = '"2"'
        source.seek(-10, io.SEEK_END)
        with pytest.raises(InputError, match="changed while it was read"):
            source.read()
