"""A client that openapi-python-client generates from the OpenAPI document: nothing is left out, and it prunes."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from tests.service.api_server import bearer, serving

pytest.importorskip(
    "openapi_python_client", reason="openapi-python-client is not installed: make test-peers installs it and runs this"
)
PACKAGE = "generated_winnow_client"


@pytest.fixture
def url(jobs: Jobs) -> Iterator[str]:
    with serving(jobs, always_keys=True) as started:
        yield started


@pytest.fixture
def generated(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the generated client."""
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--url", f"{url}/openapi.json"]
    options = ["--meta", "none", "--output-path", str(tmp_path / PACKAGE), "--fail-on-warning"]
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # it runs ruff
    ran = subprocess.run([*command, *options], env=env, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda module: importlib.import_module(f"{PACKAGE}.{module}")


def test_the_generated_client_submits_waits_and_downloads(
    generated: Callable[[str], Any],
    url: str,
    jobs: Jobs,
    make_request: Callable[..., JobRequest],
    start_worker: Callable[..., object],
    wait_for: Callable[..., object],
) -> None:
    headers = bearer(jobs, "submit")
    token = headers["Authorization"].split()[1]
    with generated("client").AuthenticatedClient(base_url=url, token=token) as client:
        body = generated("models").JobRequest.from_dict(make_request().model_dump(mode="json"))
        job = generated("api.jobs.create_job").sync(client=client, body=body)
        start_worker()
        wait_for(job.id, "succeeded")
        events = generated("api.jobs.watch_job").sync_detailed(job.id, client=client).content
        assert b'"status":"succeeded"' in events
        job = generated("api.jobs.get_job").sync(job.id, client=client)
        (made,) = job.selections
        assert (job.status, made.documents, job.progress.documents_done) == ("succeeded", 60, 120)
        manifest = generated("api.files.download_manifest").sync(job.id, made.id, client=client).payload.read()
        assert manifest == httpx.get(f"{url}{made.manifest_url}", headers=headers).content
        report = generated("api.files.get_report").sync(job.id, client=client)
        assert [found.id for found in report.selections] == [made.id]
        missing = generated("api.jobs.get_job").sync("nothing", client=client)
        assert (missing.status, missing.detail) == (404, "there is no job nothing")
