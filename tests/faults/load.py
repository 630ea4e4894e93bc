"""Load on a service over HTTP/1.1, as lean as it can be, so that the client's own work hardly shows in the times."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Load:
    """What a service is given, and what came of it. Times in seconds."""

    url: str
    body: dict[str, Any]  # of each job
    jobs: int
    submit_seconds: float  # in which they are submitted, evenly
    pollers: int  # each asks for a job's status about once a second
    streams: int  # of events
    seconds: float
    seed: int
    answers: Counter[int] = field(default_factory=Counter)
    status_times: list[float] = field(default_factory=list)
    submit_times: list[float] = field(default_factory=list)
    events: int = 0
    broken: list[str] = field(default_factory=list)  # connections that failed, and streams that fell silent
    ids: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Puts the load on, to its end."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._end = time.monotonic() + self.seconds
        work = [self._submit()]
        work += [self._poll(random.Random(f"{self.seed} poller {number}")) for number in range(self.pollers)]
        work += [self._stream(random.Random(f"{self.seed} stream {number}")) for number in range(self.streams)]
        await asyncio.gather(*work)

    async def _submit(self) -> None:
        connection = _Connection(self.url)
        body = json.dumps(self.body).encode()
        started = time.monotonic()
        for number in range(self.jobs):
            due = started + number * self.submit_seconds / self.jobs
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked = time.monotonic()
            status, answer = await self._ask(connection, "POST", "/v1/jobs", body)
            self.submit_times.append(time.monotonic() - asked)
            if status == 202:
                self.ids.append(json.loads(answer)["id"])
        connection.close()

    async def _poll(self, chance: random.Random) -> None:
        connection = _Connection(self.url)
        await asyncio.sleep(chance.uniform(0, 1))
        while time.monotonic() < self._end:
            if self.ids:
                asked = time.monotonic()
                status, _ = await self._ask(connection, "GET", f"/v1/jobs/{chance.choice(self.ids)}")
                if status == 200:
                    self.status_times.append(time.monotonic() - asked)
            await asyncio.sleep(chance.uniform(0.5, 1.5))
        connection.close()

    async def _ask(self, connection: "_Connection", method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        try:
            status, answer = await connection.ask(method, path, body)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.broken.append(f"{method} {path}: {error!r}")
            connection.close()
            return 0, b""
        self.answers[status] += 1
        return status, answer

    async def _stream(self, chance: random.Random) -> None:
        """Follows one job after the other, each to its end."""
        while time.monotonic() < self._end:
            if not self.ids:
                await asyncio.sleep(0.1)
                continue
            connection = _Connection(self.url)
            path = f"/v1/jobs/{chance.choice(self.ids)}/events"
            try:
                status, _ = await connection.head("GET", path)
                self.answers[status] += 1
                while time.monotonic() < self._end:
                    line = await asyncio.wait_for(connection.line(), 10)
                    if line == b"":
                        break
                    self.events += line.startswith(b"data:")
            except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
                self.broken.append(f"{path}: {error!r}")
            connection.close()
            await asyncio.sleep(0.2)


class _Connection:
    """A connection that is kept, and made again after an error."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname, where.port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """The status and the whole body of an answer."""
        status, headers = await self.head(method, path, body)
        assert self._reader is not None
        return status, await self._reader.readexactly(int(headers[b"content-length"]))

    async def head(self, method: str, path: str, body: bytes = b"") -> tuple[int, dict[bytes, bytes]]:
        """The status and the headers of an answer, by their names in small letters."""
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=1 << 20)
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self._writer.write(f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\n{kind}\r\n".encode() + body)
        assert self._reader is not None
        lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def line(self) -> bytes:
        """The next line of an answer without an end; empty when it has ended."""
        assert self._reader is not None
        return await self._reader.readline()

    def close(self) -> None:
        """Ends the connection."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None
