"""Fixtures of all tests: an S3 server that speaks the real protocol, and a server that processes are forked from."""

import multiprocessing
import uuid
from collections.abc import Iterator

import fsspec
import pytest
from _pytest import runner

from scorer.process import tune_process
from tests.forked import CONTEXT, start_server

tune_process()  # as the entry points do, before torch is loaded
# pytest names the test at hand in the environment, so that for each one new reader processes would start, half a second
# each: a reader is used again only while the environment stays as it was.
runner._update_current_test_var = lambda *_: None
pytest_plugins = ["tests.service.redis_fixtures", "tests.service.shell"]


@pytest.fixture(scope="session")
def fork_server() -> None:
    """The server that processes of `tests.forked` are forked from."""
    start_server()


@pytest.fixture
def fork_not_spawn(fork_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that the code under test starts with `multiprocessing` are forked from that server."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _method: CONTEXT)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_url(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of this test's own; s3fs finds the server as users' own settings would have it, by the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}"
