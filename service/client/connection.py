"""Requests to one service: repeated while it cannot be reached, with downloads that resume and events that go on."""

import hashlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from service.client.errors import ApiError, ClientError, DamagedDownload, NotSent, ServiceUnreachable, api_error

TIMEOUT = httpx.Timeout(90, connect=10)  # seconds; a check of a corpus takes up to 60
_EVENTS_TIMEOUT = httpx.Timeout(10)  # events come every two seconds
_RETRIED = frozenset({429, 502, 503, 504})  # 502 and 504: of a gateway whose service restarts
_PAUSE_FIRST, _PAUSE_LAST = 0.25, 5.0  # seconds between two attempts; each pause is twice as long as the one before


def base_url(server: str) -> httpx.URL:
    """The URL of a service. Raises ClientError for any other text."""
    try:
        url = httpx.URL(server)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ClientError(f"{server!r} is not the URL of a service: use one such as http://127.0.0.1:8000")
    return url


def headers(key: str | None) -> dict[str, str]:
    """The headers of all requests with an API key. Raises ClientError for a text that cannot be a key."""
    if key is not None and not (key.isascii() and key.isprintable()):
        raise ClientError("the API key has characters that no key has: use the one that `winnow keys make` printed")
    return {"Authorization": f"Bearer {key}"} if key else {}


class Connection:
    """Requests to the service at the base URL of `http`.

    A request is repeated for `retry_seconds` if the connection is lost, or the service answers 429, 502, 503 or 504.
    All requests of the client may be repeated: those that create jobs have an Idempotency-Key. Only if no service has
    ever answered, a refused connection is an error at once.
    """

    def __init__(
        self, http: httpx.AsyncClient, sleep: Callable[[float], Awaitable[None]], retry_seconds: float
    ) -> None:
        self.http, self.sleep, self.retry_seconds = http, sleep, retry_seconds
        self._answered = False

    async def send(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The whole answer to a request; `given` are arguments of httpx. Raises ApiError, ServiceUnreachable."""
        attempts = _Attempts(self)
        while True:
            try:
                async with self._open(method, path, **given) as answer:
                    await answer.aread()
                return answer
            except ClientError as error:
                await attempts.pause(error)

    async def events(self, path: str) -> AsyncGenerator[str, None]:
        """The data of server-sent events, without an end: where a stream ends, it connects again."""
        attempts = _Attempts(self)
        while True:
            error: ClientError = ServiceUnreachable(f"the service at {self.http.base_url} ended the events of {path}")
            try:
                async with self._open("GET", path, timeout=_EVENTS_TIMEOUT) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data:"):
                            attempts.succeeded()
                            yield line[5:]
            except ClientError as failed:
                error = failed
            await attempts.pause(error)

    async def download(self, path: str, target: Path, **params: str) -> None:
        """Saves a file and checks its SHA-256 against the ETag. After a lost connection it goes on where it was.

        Raises ApiError, ServiceUnreachable, DamagedDownload, and OSError if the file cannot be written.
        """
        partial = target.with_name(f".{target.name}.part")
        attempts, digest, etag, done = _Attempts(self), hashlib.sha256(), "", False
        try:
            with partial.open("wb") as file:
                while not done:
                    wanted = {"Accept-Encoding": "identity"}
                    if file.tell():
                        wanted |= {"Range": f"bytes={file.tell()}-", "If-Range": etag}
                    try:
                        async with self._open("GET", path, params=params, headers=wanted) as answer:
                            if answer.status_code != 206:
                                file.seek(0)
                                file.truncate()
                                digest = hashlib.sha256()
                            etag = answer.headers.get("etag", "")
                            async for piece in answer.aiter_bytes():
                                file.write(piece)
                                digest.update(piece)
                                attempts.succeeded()
                        done = True
                    except ClientError as error:
                        await attempts.pause(error)
            if etag and digest.hexdigest() != etag.removeprefix("W/").strip('"'):
                raise DamagedDownload(f"{target.name}: the SHA-256 of the download is wrong: download it again")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @asynccontextmanager
    async def _open(self, method: str, path: str, **given: Any) -> AsyncIterator[httpx.Response]:
        """The answer to one request, whose content the caller reads. Raises ApiError, ServiceUnreachable, NotSent."""
        if not path.startswith("/") or path.startswith("//"):  # the key is for one service alone
            raise NotSent(f"{path!r} is no path of the API: it begins with one /")
        if any(not value.isascii() or not value.isprintable() for value in given.get("headers", {}).values()):
            raise NotSent("the request cannot be sent: a header, such as Idempotency-Key, has characters beyond ASCII")
        try:
            try:
                answer = await self.http.send(self.http.build_request(method, path, **given), stream=True)
            except (httpx.InvalidURL, ValueError) as error:
                raise NotSent(f"the request cannot be sent: {error}") from None
            try:
                self._answered = True
                if not answer.is_success:
                    await answer.aread()
                    raise api_error(answer)
                yield answer
            finally:
                await answer.aclose()
        except httpx.RequestError as error:
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout) and not self._answered:
                raise _NeverAnswered(self._no_answer(error)) from None
            raise ServiceUnreachable(self._no_answer(error)) from None

    def _no_answer(self, error: Exception) -> str:
        server = str(self.http.base_url).rstrip("/")
        reason = str(error) or type(error).__name__
        return f"no service answers at {server} ({reason}): is `winnow serve` running there?"


class _NeverAnswered(ServiceUnreachable):
    """There may be no service at this URL at all."""


class _Attempts:
    """The attempts of one call, which end some seconds after the first failure since the last success."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.succeeded()

    def succeeded(self) -> None:
        """Notes that data came: the next failure is a first one."""
        self._deadline: float | None = None
        self._pause = _PAUSE_FIRST

    async def pause(self, error: ClientError) -> None:
        """Pauses before the next attempt. Raises the error if there is to be none."""
        refused = isinstance(error, ApiError) and error.status not in _RETRIED
        if refused or isinstance(error, _NeverAnswered | NotSent):
            raise error
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._connection.retry_seconds
        seconds = self._pause * random.uniform(0.5, 1.0)  # noqa: S311 (clients that failed together return apart)
        if isinstance(error, ApiError) and error.retry_after is not None:
            seconds = max(seconds, error.retry_after)
        if now + seconds > self._deadline:
            raise error
        self._pause = min(2 * self._pause, _PAUSE_LAST)
        await self._connection.sleep(seconds)
