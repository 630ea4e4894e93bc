"""A real `winnow serve` for the browser to visit, real text for it to prune, and a line to it that can be cut."""

import inspect
import json
import os
import pkgutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from tests.service.pool import NO_TLS, until
from tests.service.serving import Service

_PACKAGES = (
    "json",
    "email",
    "http",
    "logging",
    "unittest",
    "xml",
    "asyncio",
    "concurrent",
    "multiprocessing",
    "urllib",
)


class Serving(Service):
    """A running service, and a client of its API."""

    def __init__(self, workspace: Path, log: Path, exports: Path) -> None:
        super().__init__(workspace, log, export_root=(str(exports),))
        self.exports = exports
        self.api = httpx.Client(base_url=self.ready().url, timeout=60, verify=NO_TLS)

    def worker(self) -> int:
        """The process that scores."""
        return until(lambda: self.children().get("0"))  # type: ignore[no-any-return]

    @contextmanager
    def halted(self, job_id: str) -> Iterator[None]:
        """Holds a job of many shards where some are scored and some are not, for as long as the block lasts."""
        with ExitStack() as held:

            def is_held() -> bool:
                """Looks while the worker is stopped, and leaves it so: else it may be done before the next look."""
                with ExitStack() as look:
                    look.enter_context(_stopped(self.worker()))  # each time, as another may have taken its place
                    if self.job(job_id)["progress"]["shards_done"] >= 2:
                        held.push(look.pop_all())
                        return True
                return False

            until(is_held)
            job = self.job(job_id)
            assert job["status"] == "scoring", job
            yield

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Holds all workers for as long as the block lasts."""
        until(lambda: {"light", "0"} <= self.children().keys())
        with _stopped(*(self.children()[name] for name in ("light", "0"))):
            yield

    def close(self) -> None:
        """Ends the service."""
        self.api.close()
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def _stopped(*processes: int) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)


def real_texts(limit: int) -> list[dict[str, Any]]:
    """Sources and docstrings of the standard library: text that people wrote, on every machine."""
    rows: list[dict[str, Any]] = []
    for package in _PACKAGES:
        module = __import__(package)
        for info in pkgutil.iter_modules(module.__path__):
            path = Path(module.__path__[0]) / f"{info.name}.py"
            if not path.is_file():
                continue
            paragraphs = [part for part in path.read_text(errors="replace").split("\n\n") if len(part) > 80]
            rows += [
                {"id": f"{package}.{info.name}#{i}", "domain": package, "text": inspect.cleandoc(part)}
                for i, part in enumerate(paragraphs)
            ]
    return rows[:: max(1, len(rows) // limit)][:limit]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Line:
    """A TCP proxy to a service, which can be cut and mended."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._up = True
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Ends every connection, and each new one at once."""
        self._up = False
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Lets connections through again."""
        self._up = True

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._up:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._open |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._open.discard(source)
        source.close()  # the other direction closes the other end


def lines(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The rows of JSON lines."""
    return (json.loads(line) for line in answer.text.splitlines())
