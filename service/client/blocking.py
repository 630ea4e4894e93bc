"""Runs the client's coroutines without an event loop: over a transport that blocks, they never suspend."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from typing import Any, TypeVar

import httpx

Result = TypeVar("Result")
Item = TypeVar("Item")
_END = object()


class BlockingTransport(httpx.AsyncBaseTransport):
    """A transport for httpx.AsyncClient that sends each request by an httpx.Client and blocks meanwhile."""

    def __init__(self) -> None:
        self._http = httpx.Client()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer to a request; its content is read when it is iterated over."""
        answer = self._http.send(request, stream=True)
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=_Content(answer), extensions=answer.extensions
        )

    async def aclose(self) -> None:
        """Closes all connections."""
        self._http.close()


class _Content(httpx.AsyncByteStream):
    """The content of an answer as it was sent, in pieces."""

    def __init__(self, answer: httpx.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._answer.iter_raw():
            yield piece

    async def aclose(self) -> None:
        """Closes the answer."""
        self._answer.close()


async def sleep(seconds: float) -> None:
    """Blocks for some seconds."""
    time.sleep(seconds)


def run(steps: Coroutine[Any, Any, Result]) -> Result:
    """Runs a coroutine that never suspends, as it awaits only calls that block, and returns its result."""
    try:
        steps.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    steps.close()
    raise RuntimeError("a coroutine of the blocking client has suspended")


def iterate(items: AsyncGenerator[Item, None]) -> Generator[Item, None, None]:
    """The items of an asynchronous generator that never suspends."""

    async def following() -> Any:
        return await anext(items, _END)

    try:
        while (item := run(following())) is not _END:
            yield item
    finally:
        run(items.aclose())
