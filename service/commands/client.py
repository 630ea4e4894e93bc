"""The HTTP API from Python, as the command line uses it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

_AWAY_SECONDS = 1.0  # between tries to reach the service again
_TRIES = 30  # to reach it again while watching


class ApiError(Exception):
    """The service refused, failed or cannot be reached. The message is one line."""


class Client:
    """A connection to a service. Every method raises ApiError."""

    def __init__(self, server: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else None
        try:
            self._http = httpx.Client(base_url=server, headers=headers, timeout=httpx.Timeout(60, connect=10))
        except (httpx.InvalidURL, ValueError) as error:
            raise ApiError(f"--server {server}: {error}") from None
        self._server = server

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, request: dict[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """Submits a job; the job."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else None
        return self._json("POST", "/v1/jobs", json=request, headers=headers)

    def job(self, job_id: str) -> dict[str, Any]:
        """One job."""
        return self._json("GET", f"/v1/jobs/{job_id}")

    def jobs(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest jobs."""
        page: list[dict[str, Any]] = self._json("GET", "/v1/jobs", params={"limit": limit})["data"]
        return page

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancels a job; the job."""
        return self._json("POST", f"/v1/jobs/{job_id}/cancel")

    def get(self, path: str, params: dict[str, Any]) -> dict[str, Any]:
        """What a GET answers; parameters that are None stay away."""
        return self._json("GET", path, params={name: value for name, value in params.items() if value is not None})

    def report(self, job_id: str) -> dict[str, Any]:
        """A scored job's report."""
        return self._json("GET", f"/v1/jobs/{job_id}/report")

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job as it goes on, last when it has ended; through lost connections, once there was one."""
        tries, answered = 0, False
        while True:
            try:
                with self._http.stream("GET", f"/v1/jobs/{job_id}/events", timeout=10) as answer:
                    _check(answer)
                    answered = True
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            job = json.loads(line[5:])
                            tries = 0
                            yield job
                            if job["finished_at"] is not None:
                                return
            except httpx.TransportError as error:
                if tries == _TRIES or not answered:
                    raise self._unreachable(error) from None
            tries += 1
            time.sleep(_AWAY_SECONDS)

    def download(self, path: str, target: Path, on_bytes: Callable[[int], None] = lambda _: None) -> None:
        """Saves a file, whole and as its ETag says; `on_bytes` is told how many more bytes are there."""
        beside = target.with_name(f".{target.name}.part")
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", path) as answer, beside.open("wb") as file:
                _check(answer)
                for piece in answer.iter_bytes():
                    file.write(piece)
                    digest.update(piece)
                    on_bytes(len(piece))
            expected = answer.headers.get("etag", "").strip('"')
            if expected and digest.hexdigest() != expected:
                raise ApiError(f"{target.name} arrived damaged: download it again")
            beside.replace(target)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        finally:
            beside.unlink(missing_ok=True)

    def _json(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **given)
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise self._unreachable(error) from None
        _check(answer)
        body: dict[str, Any] = answer.json()
        return body

    def _unreachable(self, error: Exception) -> ApiError:
        return ApiError(f"no service answers at {self._server} ({error}): is `winnow serve` running there?")


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    answer.read()
    try:
        raise ApiError(str(answer.json()["detail"]))
    except (ValueError, KeyError, TypeError):
        raise ApiError(f"{answer.request.url} answered {answer.status_code}, which is no Winnow") from None
