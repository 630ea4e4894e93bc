"""A client of the HTTP API, for the command line."""

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from service.contract.network import job_path

_RETRY_SECONDS = 1.0
_RETRIES_MAX = 30  # in a row, after a connection was lost while watching


class ApiError(Exception):
    """The service refused a request, failed or cannot be reached. The message is one line."""


class Client:
    """A client of one service. Every method raises ApiError."""

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

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """The JSON of a GET; parameters that are None are left out."""
        return self._json("GET", path, params={name: value for name, value in params.items() if value is not None})

    def post(self, path: str, body: Any = None, **headers: str) -> dict[str, Any]:
        """The JSON of a POST."""
        return self._json("POST", path, json=body, headers=headers)

    def events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """The job after each change, until it has ended. Reconnects if a connection is lost."""
        retries, connected = 0, False
        while True:
            try:
                with self._http.stream("GET", job_path(job_id, "events"), timeout=10) as answer:
                    _check(answer)
                    connected = True
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            job = json.loads(line[5:])
                            retries = 0
                            yield job
                            if job["finished_at"] is not None:
                                return
            except httpx.TransportError as error:
                if retries == _RETRIES_MAX or not connected:
                    raise self._unreachable(error) from None
            retries += 1
            time.sleep(_RETRY_SECONDS)

    def download(self, path: str, target: Path) -> None:
        """Saves a file and checks its SHA-256 against the ETag."""
        partial = target.with_name(f".{target.name}.part")
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", path) as answer, partial.open("wb") as file:
                _check(answer)
                for piece in answer.iter_bytes():
                    file.write(piece)
                    digest.update(piece)
            expected = answer.headers.get("etag", "").strip('"')
            if expected and digest.hexdigest() != expected:
                raise ApiError(f"{target.name}: the SHA-256 of the download is wrong: download it again")
            partial.replace(target)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        finally:
            partial.unlink(missing_ok=True)

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
        raise ApiError(f"{answer.request.url} answered {answer.status_code} and is not a Winnow service") from None
