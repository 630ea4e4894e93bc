"""The Python client against real services: its answers, errors and retries, and that both clients do the same."""

import asyncio
import inspect
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from pruner.tables import table_files
from service.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    DamagedDownload,
    NotSaved,
    NotSent,
    NotSucceeded,
    ServiceUnreachable,
    UnknownAnswer,
)
from service.client.calls import Calls
from service.contract.quotas import Quotas
from service.contract.schemas import Job, JobRequest
from service.http.routes import selections
from service.jobs.jobs import Jobs
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker
from tests.service.api_server import bearer, serving
from tests.service.artefacts import manifest_path
from tests.service.flaky_proxy import FlakyProxy, flaky_proxy
from tests.service.serving import Service

MANUAL = (Path(__file__).parent.parent.parent / "docs" / "python-client.md").read_text()
TASK_SECONDS = 0.02  # between two looks for a task
METHODS = {name for name in vars(Calls) if not name.startswith("_")}
Call = Callable[..., Any]


@pytest.fixture
def client(api: httpx.Client) -> Iterator[Client]:
    with Client(str(api.base_url)) as made:
        yield made


@pytest.fixture
def proxy(api: httpx.Client) -> Iterator[FlakyProxy]:
    with flaky_proxy(str(api.base_url)) as started:
        yield started


@pytest.fixture(params=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest, proxy: FlakyProxy) -> Call:
    """Calls a method of either client through the proxy."""

    def blocking(name: str, *args: Any, **given: Any) -> Any:
        with Client(proxy.url) as made:
            return getattr(made, name)(*args, **given)

    def in_loop(name: str, *args: Any, **given: Any) -> Any:
        async def calling() -> Any:
            async with AsyncClient(proxy.url) as made:
                return await getattr(made, name)(*args, **given)

        return asyncio.run(calling())

    return blocking if request.param == "blocking" else in_loop


@pytest.fixture
def working(worker: PoolWorker) -> Iterator[None]:
    """A worker in a thread, which does all tasks that come."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            if not worker.once():
                ended.wait(TASK_SECONDS)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_a_selection_that_takes_long_is_waited_for_also_if_its_manifest_has_parts(
    client: Client, pruned: dict[str, Any], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selections, "_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(table_files, "ONE_FILE_ROWS", 10)
    request.getfixturevalue("working")
    assert client.create_selection(pruned["id"], "paper-pile").id == "paper-pile"
    made = client.create_selection(pruned["id"], {"criterion": "high", "rate": 0.9})
    assert made.documents > 10
    assert made.parts == len(client.list_manifest_parts(pruned["id"], made.id).data)


# -- the two clients, and the API's names
def test_both_clients_have_the_same_methods() -> None:
    assert METHODS - set(dir(Client)) == METHODS - set(dir(AsyncClient)) == set()
    for name in METHODS:
        assert inspect.signature(getattr(Client, name)) == inspect.signature(getattr(AsyncClient, name))
        assert getattr(Client, name).__doc__


def test_operations_have_unique_names_which_are_the_methods(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    operations = [operation for path in paths.values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(r"[a-z]+(_[a-z]+)+", name)] == []
    assert {each["operationId"] for each in operations if each["tags"] != ["health"]} <= METHODS


# -- jobs
@pytest.fixture
def calls(pruned: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Calls that change nothing, of a job that has succeeded."""
    job = pruned["id"]
    return [
        ("get_job", job),
        ("list_jobs",),
        ("wait_for_job", job),
        ("list_workers", job),
        ("get_histogram", job),
        ("get_report", job),
        ("list_documents", job),
        ("preview_selection", job),
        ("create_selection", job, {}),
        ("list_exports", job),
        ("list_ablations", job),
        ("check_corpus", pruned["request"]["corpus"]),
        ("get_json", f"/v1/jobs/{job}"),
    ]


def test_the_async_client_answers_as_the_blocking_one(client: Client, calls: list[tuple[Any, ...]]) -> None:
    async def in_loop() -> list[Any]:
        async with AsyncClient(str(client._http.base_url)) as made:
            return [await getattr(made, name)(*args) for name, *args in calls]

    blocking = [getattr(client, name)(*args) for name, *args in calls]
    assert asyncio.run(in_loop()) == blocking
    job, page, *_ = blocking
    assert page.data == [job]
    assert (job.progress.documents_done, blocking[7].documents, blocking[-1]["id"]) == (120, 60, job.id)


def test_a_job_is_watched_to_its_end(
    client: Client, make_request: Callable[..., JobRequest], request: pytest.FixtureRequest
) -> None:
    job = client.create_job(make_request())
    assert job.request == make_request()
    watched = client.watch_job(job.id)
    assert next(watched).status == "queued"
    watched.close()
    request.getfixturevalue("working")
    seen: list[Job] = []
    done = client.wait_for_job(job.id, seen.append)
    assert (done.status, seen[-1]) == ("succeeded", done)
    assert [made.id for made in done.selections] == ["medium-0.5"]


def test_waiting_for_a_job_that_fails_or_is_cancelled(
    client: Client, make_request: Callable[..., JobRequest], work_off: Callable[[], None]
) -> None:
    failing, cancelled = client.create_job(make_request(Path("/nowhere"))), client.create_job(make_request())
    assert client.cancel_job(cancelled.id).status == "cancelled"
    work_off()
    with pytest.raises(NotSucceeded, match=r"failed: /nowhere: no such file") as failed:
        client.wait_for_job(failing.id)
    assert failed.value.ended.status == "failed"
    with pytest.raises(NotSucceeded, match="was cancelled"):
        client.wait_for_job(cancelled.id)


def test_the_manual_runs_as_it_stands(
    working: None,
    api: httpx.Client,
    make_request: Callable[..., JobRequest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    request = make_request()
    (tmp_path / "mine.jsonl").write_text('{"text": "the of a model reads text where every token counts"}\n' * 20)
    code = "\n".join(re.findall(r"```python\n(.*?)```", MANUAL, re.DOTALL))
    for written, here in {
        "http://127.0.0.1:8000": str(api.base_url),
        "/data/corpus/*.parquet": f"{request.corpus.paths[0]}/*.parquet",
        "/data/references/tiny": str(request.model),
        "/data/mine.jsonl": str(tmp_path / "mine.jsonl"),
        "1_000_000": "2_000, 'seeds': 1",
    }.items():
        assert written in code
        code = code.replace(written, here)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    names["client"].close()
    assert {path.name for path in (tmp_path / "low").iterdir()} >= {"export.json", "README.md"}
    saved = {"manifest-medium-0.5.parquet", "scores.parquet", "runs.parquet"}
    assert saved <= {path.name for path in tmp_path.iterdir()}
    said = capsys.readouterr().out
    assert "3 files; no problems" in said
    assert "422 Unprocessable" in said
    assert "selections.0.rate: " in said


# -- errors
def test_the_client_says_what_the_service_says(call: Call, make_request: Callable[..., JobRequest]) -> None:
    with pytest.raises(ApiError, match="there is no job nothing") as missing:
        call("get_job", "nothing")
    assert (missing.value.status, missing.value.title, missing.value.errors) == (404, "Not Found", [])
    body = make_request().model_dump(mode="json")
    with pytest.raises(ApiError, match=r"selections.0.rate") as wrong:
        call("create_job", body | {"selections": [{"rate": 2}], "nonsense": 1})
    assert wrong.value.status == 422
    assert {each.field for each in wrong.value.errors} == {"selections.0.rate", "nonsense"}
    with pytest.raises(ApiError, match="there is no job nothing"):
        call("wait_for_job", "nothing")
    with pytest.raises(ApiError, match="there is no job nothing"):
        call("download_scores", "nothing", "x")
    assert not Path("x").exists()


def test_a_quota_is_said(workspace: Workspace, redis: Any, make_request: Callable[..., JobRequest]) -> None:
    jobs = Jobs(workspace, redis, quotas=Quotas(jobs=1))
    key = bearer(jobs, "submit")["Authorization"].removeprefix("Bearer ")
    with serving(jobs) as url, Client(url, key, retry_seconds=1) as client:
        client.create_job(make_request())
        with pytest.raises(ApiError, match="the quota is 1") as refused:
            client.create_job(make_request())
        assert (refused.value.status, refused.value.retry_after) == (429, 10)
        assert (refused.value.problem.model_extra or {})["quota"] == "jobs"


def test_an_answer_of_another_version_is_said(proxy: FlakyProxy) -> None:
    proxy.faults[:] = ["change"]
    with Client(proxy.url) as client, pytest.raises(UnknownAnswer, match="JobPage is not what this client"):
        client.list_jobs()


def test_where_no_service_answers() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ServiceUnreachable, match="no service answers"):
        client.list_jobs()
    for url in ("no url", "127.0.0.1:8000", "http://", "ftp://a", "http://a:b"):
        with pytest.raises(ClientError, match="is not the URL of a service"):
            Client(url)
    with pytest.raises(ClientError, match="no key has"):
        Client("http://127.0.0.1:9", "schlüssel")


def test_what_cannot_be_sent_is_refused_at_once() -> None:
    request = {"corpus": {"paths": ["/x"]}}
    with Client("http://127.0.0.1:9") as client:  # where nothing answers
        for wrong in ("", ".", "..", None, 3):
            with pytest.raises(NotSent, match="is no id"):
                client.cancel_job(wrong)  # type: ignore[arg-type]
        for key in ("schlüssel", "two\nlines"):
            with pytest.raises(NotSent, match="cannot be sent"):
                client.create_job(request, idempotency_key=key)
        for value in (float("nan"), object(), "\ud800"):
            with pytest.raises(NotSent, match=r"cannot be sent|is not JSON"):
                client.create_job(request | {"name": value})
        for path in ("http://127.0.0.2:9/v1/jobs", "//127.0.0.2:9/v1/jobs", "v1/jobs"):  # which would get the key
            with pytest.raises(NotSent, match="no path of the API"):
                client.get_json(path)


def test_requests_take_paths_and_answers_that_are_no_json_are_said(client: Client, pruned: dict[str, Any]) -> None:
    given = pruned["request"]["corpus"]
    assert client.check_corpus(given | {"paths": [*map(Path, given["paths"])]}) == client.check_corpus(given)
    with pytest.raises(UnknownAnswer, match="/metrics is not JSON"):
        client.get_json("/metrics")


# -- retries
def test_a_retried_request_makes_one_job(
    call: Call, proxy: FlakyProxy, make_request: Callable[..., JobRequest]
) -> None:
    proxy.faults[:] = ["lose", "overloaded"]
    job = call("create_job", make_request())
    posts = [headers["idempotency-key"] for method, headers in proxy.seen if method == "POST"]
    assert len(posts) == 3
    assert len(set(posts)) == 1
    assert [found.id for found in call("list_jobs").data] == [job.id]
    assert call("create_job", make_request()).id != job.id
    again = [call("create_job", make_request(), idempotency_key="mine").id for _ in range(2)]
    assert again[0] == again[1]


def test_requests_are_not_repeated_for_ever(proxy: FlakyProxy) -> None:
    proxy.faults[:] = ["overloaded"] * 1000
    with Client(proxy.url, retry_seconds=1) as client, pytest.raises(ApiError, match="answered 503") as last:
        client.list_jobs()
    assert last.value.status == 503
    assert len(proxy.seen) > 1


def test_a_wait_goes_on_when_the_service_is_killed_and_started_again(
    make_request: Callable[..., JobRequest], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    running = [Service(tmp_path / "workspace", tmp_path / "log-0", port=port).ready()]
    seen: list[str] = []

    def restart(job: Job) -> None:
        seen.append(job.status)
        if len(running) == 1:
            running[0].process.kill()
            running[0].process.wait()
            running.append(Service(tmp_path / "workspace", tmp_path / "log-1", port=port))

    try:
        with Client(running[0].url, retry_seconds=120) as client:
            job = client.create_job(make_request())
            assert client.wait_for_job(job.id, restart).status == "succeeded"
        assert (len(running), seen[-1]) == (2, "succeeded")
    finally:
        for service in running:
            service.process.terminate()
            service.process.wait()


# -- downloads
@pytest.fixture
def made(pruned: dict[str, Any]) -> tuple[str, str]:
    """The ids of a job and of its selection."""
    return pruned["id"], pruned["selections"][0]["id"]


def test_a_download_goes_on_where_it_broke_off(
    call: Call, proxy: FlakyProxy, api: httpx.Client, pruned: dict[str, Any], made: tuple[str, str], tmp_path: Path
) -> None:
    proxy.faults[:] = [None, "cut"]  # the list of its files first
    call("download_manifest", *made, tmp_path / "manifest.parquet")
    content = api.get(pruned["selections"][0]["manifest_url"]).content
    assert (tmp_path / "manifest.parquet").read_bytes() == content
    ranges = [headers.get("range") for _, headers in proxy.seen]
    assert ranges == [None, None, f"bytes={len(content) // 2}-"]
    call("download_manifest", *made, tmp_path / "manifest.jsonl", format="jsonl")
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 60


def test_a_damaged_file_is_refused(client: Client, made: tuple[str, str], jobs: Jobs, tmp_path: Path) -> None:
    path = manifest_path(jobs.workspace, made[0])
    data = bytearray(jobs.workspace.storage.read_bytes(path))
    data[50] ^= 1
    jobs.workspace.storage.write_bytes(path, bytes(data))
    with pytest.raises(DamagedDownload, match="SHA-256 of the download is wrong"):
        client.download_manifest(*made, tmp_path / "manifest.parquet")
    assert list(tmp_path.glob("*manifest*")) == []


def test_a_download_that_cannot_be_written_is_said(client: Client, made: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(NotSaved, match=r"out/manifest.parquet: cannot be written \(No such file"):
        client.download_manifest(*made, out / "manifest.parquet")
    out.mkdir()
    for download, ids in ((client.download_manifest, made), (client.download_report, made[:1])):
        with pytest.raises(NotSaved, match=f"{out}: "):
            download(*ids, out)
    assert [path.name for path in tmp_path.glob("*out*")] == ["out"]


HOSTILE_NAMES = ["../outside", "/outside", "a/../../outside", "..", ""]


@pytest.fixture
def hostile() -> Iterator[tuple[str, dict[str, Any]]]:
    """The URL of a service that answers each path with JSON of the test's choice, and these answers."""
    answers: dict[str, Any] = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """No log."""

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_service_cannot_have_files_written_elsewhere(hostile: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    url, answers = hostile
    export: dict[str, Any] = {"id": "e", "selection": "low-0.5", "format": "jsonl", "scores": False, "out": None}
    export |= {"status": "succeeded", "progress": {}, "error": None}
    record: dict[str, Any] = {"key": "k", "selection": {}, "format": "jsonl", "scores": False}
    record |= {"documents": 1, "tokens": 1, "provenance": {}}
    with Client(url) as client:
        for name in HOSTILE_NAMES:
            files = [{"path": name, "rows": 1, "sha256": "0" * 64, "bytes": 1}]
            answers["/v1/jobs/j/exports/e"] = export | {"files": files}
            answers["/v1/jobs/j/exports/e/files/export.json"] = record | {"files": files}
            with pytest.raises(NotSaved, match="leads out of the folder"):
                client.download_export("j", "e", tmp_path / "out")
        for name in ("../outside.parquet", "/outside.parquet", "a/b.parquet", "..parquet"):
            part = {"name": name, "bytes": 1, "sha256": "0" * 64, "url": "/v1/x"}
            answers["/v1/jobs/j/scores/parts"] = {"data": [part]}
            with pytest.raises(UnknownAnswer, match="not the name of a file"):
                client.download_scores("j", tmp_path / "scores")
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == set()
