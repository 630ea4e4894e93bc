"""Fixtures: one private Redis server for the session, and queues that share no keys between tests."""

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from service.queue.leases import Queue


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from service.run.redis_server import RedisServer

    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server.url
    server.close()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    from service.queue.leases import connect

    client = connect(redis_url)
    yield client
    client.close()


@pytest.fixture
def make_queue(redis: Any) -> Callable[..., "Queue"]:
    """Makes queues of one workspace, which no other test uses."""
    from service.queue.leases import Queue

    workspace = uuid.uuid4().hex

    def make(lease_seconds: float = 60) -> Queue:
        return Queue(redis, workspace, lease_seconds)

    return make


@pytest.fixture
def queue(make_queue: Callable[..., "Queue"]) -> "Queue":
    return make_queue()
