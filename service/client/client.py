"""The clients: `AsyncClient`, and `Client`, which runs the same coroutines to their ends."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from service.client.blocking import BlockingTransport, iterate, run, sleep
from service.client.calls import Calls
from service.client.connection import TIMEOUT, Connection, base_url, headers

Given = ParamSpec("Given")
Result = TypeVar("Result")
RETRY_SECONDS = 30.0


class AsyncClient(Calls):
    """A client of the service at a URL, for asyncio. Use it as `async with AsyncClient(…) as client`.

    `key` is an API key, for services that have keys. A request is repeated for `retry_seconds` while the connection
    fails, or the service answers that it is overloaded; a retry never makes a second job. Methods raise ClientError.
    """

    def __init__(self, server: str, key: str | None = None, *, retry_seconds: float = RETRY_SECONDS) -> None:
        http = httpx.AsyncClient(base_url=base_url(server), headers=headers(key), timeout=TIMEOUT)
        super().__init__(Connection(http, asyncio.sleep, retry_seconds))

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._connection.http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _blocking(
    call: Callable[Concatenate[Calls, Given], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate["Client", Given], Result]:
    """The method of Client for a method of Calls."""

    @wraps(call)
    def method(self: "Client", /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        return run(call(self._calls, *args, **kwargs))

    return method


def _iterating(
    call: Callable[Concatenate[Calls, Given], AsyncGenerator[Result, None]],
) -> Callable[Concatenate["Client", Given], Generator[Result, None, None]]:
    """The method of Client for a method of Calls that is an asynchronous generator."""

    @wraps(call)
    def method(self: "Client", /, *args: Given.args, **kwargs: Given.kwargs) -> Generator[Result, None, None]:
        return iterate(call(self._calls, *args, **kwargs))

    return method


class Client:
    """A client of the service at a URL. Use it as `with Client(…) as client`.

    `key` is an API key, for services that have keys. A request is repeated for `retry_seconds` while the connection
    fails, or the service answers that it is overloaded; a retry never makes a second job. Methods raise ClientError.
    """

    def __init__(self, server: str, key: str | None = None, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url(server), headers=headers(key), timeout=TIMEOUT, transport=BlockingTransport()
        )
        self._calls = Calls(Connection(self._http, sleep, retry_seconds))

    def close(self) -> None:
        """Closes all connections."""
        run(self._http.aclose())

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    check_corpus = _blocking(Calls.check_corpus)
    create_job = _blocking(Calls.create_job)
    get_job = _blocking(Calls.get_job)
    list_jobs = _blocking(Calls.list_jobs)
    cancel_job = _blocking(Calls.cancel_job)
    watch_job = _iterating(Calls.watch_job)
    wait_for_job = _blocking(Calls.wait_for_job)
    list_workers = _blocking(Calls.list_workers)
    get_histogram = _blocking(Calls.get_histogram)
    get_report = _blocking(Calls.get_report)
    list_documents = _blocking(Calls.list_documents)
    preview_selection = _blocking(Calls.preview_selection)
    create_selection = _blocking(Calls.create_selection)
    download_manifest = _blocking(Calls.download_manifest)
    list_manifest_parts = _blocking(Calls.list_manifest_parts)
    download_manifest_part = _blocking(Calls.download_manifest_part)
    download_rejects = _blocking(Calls.download_rejects)
    download_scores = _blocking(Calls.download_scores)
    list_scores_parts = _blocking(Calls.list_scores_parts)
    download_scores_part = _blocking(Calls.download_scores_part)
    download_report = _blocking(Calls.download_report)
    create_export = _blocking(Calls.create_export)
    get_export = _blocking(Calls.get_export)
    list_exports = _blocking(Calls.list_exports)
    wait_for_export = _blocking(Calls.wait_for_export)
    download_export_file = _blocking(Calls.download_export_file)
    download_export = _blocking(Calls.download_export)
    create_ablation = _blocking(Calls.create_ablation)
    get_ablation = _blocking(Calls.get_ablation)
    list_ablations = _blocking(Calls.list_ablations)
    cancel_ablation = _blocking(Calls.cancel_ablation)
    wait_for_ablation = _blocking(Calls.wait_for_ablation)
    download_ablation_runs = _blocking(Calls.download_ablation_runs)
    score_texts = _blocking(Calls.score_texts)
    get_json = _blocking(Calls.get_json)
