"""A proxy in front of the API that loses answers, cuts or changes them, or answers as an overloaded gateway."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import httpx

Fault = Literal["lose", "cut", "change", "overloaded"]
_HOP = {"connection", "transfer-encoding", "content-length", "host", "date", "server"}


class FlakyProxy(ThreadingHTTPServer):
    """Forwards requests to `target`. Each fault of `faults` is done once, to the next request; None is none."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.faults: list[Fault | None] = []
        self.seen: list[tuple[str, dict[str, str]]] = []  # method and headers of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FlakyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._forward()

    def do_POST(self) -> None:
        self._forward()

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        sent = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, sent))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "overloaded":
            self._answer(503, {"content-type": "text/html", "retry-after": "0"}, b"<h1>Service Unavailable</h1>")
            return
        headers = {name: value for name, value in sent.items() if name not in _HOP}
        answer = httpx.request(self.command, self.server.target + self.path, content=body, headers=headers, timeout=60)
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP}
        if fault == "lose":
            self.close_connection = True
        elif fault == "cut":
            self._answer(answer.status_code, kept, answer.content, len(answer.content) // 2)
            self.close_connection = True
        else:
            self._answer(answer.status_code, kept, b"{}" if fault == "change" else answer.content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:sent])


@contextmanager
def flaky_proxy(target: str) -> Iterator[FlakyProxy]:
    """Runs a proxy."""
    proxy = FlakyProxy(target)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
