"""Two hosts with a cable between them: network namespaces, cut apart in the middle of a job and joined again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from scorer.engine.model_loader import ModelLoader
from service.contract.names import RESOURCES
from service.contract.schemas import JobRequest
from service.jobs.jobs import Jobs
from service.queue.leases import Queue, connect
from service.queue.tasks import HeldLease
from service.run import subprocesses as child
from service.run.redis_server import find_program
from service.store.records import TaskNote
from service.store.workspace import Workspace
from service.work.pool_worker import PoolWorker
from tests.service.artefacts import manifest_path
from tests.service.pool import until, write_corpus

# The store of objects, on the first host; it says so when its bucket is there.
_STORE = """
import signal, fsspec
from moto.server import ThreadedMotoServer
ThreadedMotoServer(ip_address="198.18.0.1", port=5000).start()
fsspec.filesystem("s3").mkdir("bucket")
print("ready", flush=True)
signal.pause()
"""
_ENVIRONMENT = {
    "AWS_ENDPOINT_URL": "http://198.18.0.1:5000",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "WINNOW_REDIS": "redis://198.18.0.1:6379",
    "WINNOW_WORKSPACE": "s3://bucket/workspace",
    "WINNOW_DEVICE": "cpu",
    "WINNOW_LEASE_SECONDS": "2",
    "WINNOW_SERVER": "http://127.0.0.1:8000",
}

DOCUMENTS = 400  # of a shard: it takes several heartbeats on a fast machine too


class Hosts:
    """Two network namespaces, `a` and `b`, joined by a cable. What runs in them is killed in the end."""

    def __init__(self, folder: Path) -> None:
        name = uuid.uuid4().hex[:6]
        self.names = {"a": f"winnow-a-{name}", "b": f"winnow-b-{name}"}
        self._folder = folder
        self._env = os.environ | _ENVIRONMENT | {"XDG_CACHE_HOME": str(folder / "cache")}
        self._started: list[subprocess.Popen[bytes]] = []

    def make(self) -> None:
        a, b = self.names["a"], self.names["b"]
        for name in (a, b):
            _ip("netns", "add", name)
        _ip("link", "add", "name", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b)
        for name, address in ((a, "198.18.0.1/24"), (b, "198.18.0.2/24")):
            _ip("-n", name, "address", "add", address, "dev", "cable")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "cable", "up")

    def remove(self) -> None:
        for process in reversed(self._started):
            process.kill()
            process.wait()
        for name in self.names.values():
            subprocess.run([_IP, "netns", "delete", name], capture_output=True)

    def cable(self, state: str) -> None:
        """`down` cuts it at the first host's end, so that the second one's calls go nowhere; `up` joins it again."""
        _ip("-n", self.names["a"], "link", "set", "cable", state)

    def start(self, host: str, command: list[str], log: str) -> "subprocess.Popen[bytes]":
        """A process on a host; its output goes to a file of the name."""
        with (self._folder / log).open("wb") as out:
            inside = [_IP, "netns", "exec", self.names[host], *command]
            self._started.append(child.start(inside, death_signal=signal.SIGKILL, env=self._env, stdout=out))
        return self._started[-1]

    def worker(self, host: str, name: str) -> "subprocess.Popen[bytes]":
        return self.start(host, child.python(f"from service.run.worker_process import main; main({name!r})"), name)

    def said(self, log: str, words: str) -> bool:
        return words in (self._folder / log).read_text()

    def winnow(self, *arguments: str) -> str:
        """What a command prints on the first host."""
        command = [_IP, "netns", "exec", self.names["a"], sys.executable, "-m", "service.commands.cli", *arguments]
        return subprocess.run(command, env=self._env, check=True, capture_output=True, text=True).stdout


_IP = shutil.which("ip") or "ip"


def _ip(*arguments: str) -> None:
    done = subprocess.run([_IP, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path)
    try:
        hosts.make()
    except OSError as error:
        hosts.remove()
        pytest.skip(f"no network namespaces can be made here (they need root and iproute2): {error}")
    yield hosts
    hosts.remove()


def held(queue: Queue, job: str) -> Sequence[HeldLease]:
    state = queue.state(job)
    return [] if state is None else state.leases


def test_a_host_cut_off_in_the_middle_of_a_job_and_joined_again_changes_nothing(
    hosts: Hosts, reference: Path, redis: Any, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", files=4, documents=DOCUMENTS, words=300)
    request = JobRequest.model_validate(
        {"corpus": {"paths": [str(corpus)]}, "reference": {"model": str(reference)}, "selections": [{"rate": 0.3}]}
    )
    alone = Jobs(Workspace(str(tmp_path / "alone")), redis)
    undisturbed, _ = alone.create(request)
    worker = PoolWorker(alone, ModelLoader("cpu"), RESOURCES, "alone")
    while worker.once():
        pass
    path = manifest_path(alone.workspace, undisturbed.id, "medium-0.3")
    expected = alone.workspace.storage.read_bytes(path)

    socket = tmp_path / "redis.sock"
    listen = ["--bind", "198.18.0.1", "--port", "6379", "--protected-mode", "no", "--unixsocket", str(socket)]
    hosts.start("a", [find_program(), *listen, "--dir", str(tmp_path), "--save", ""], "redis")
    hosts.start("a", child.python(_STORE), "store")
    until(lambda: hosts.said("store", "ready") and socket.exists())
    hosts.start("a", [sys.executable, "-m", "service.commands.cli", "serve", "--workers", "0"], "serve")
    hosts.worker("b", "there")
    until(lambda: hosts.said("serve", "ready"))
    queue = Queue(client := connect(f"unix://{socket}"), _workspace_id(client))
    submit = ["submit", "--reference", str(reference), "--rate", "0.3"]
    job = hosts.winnow(*submit, str(corpus)).strip()
    until(lambda: any(TaskNote.model_validate_json(lease.note).documents for lease in held(queue, job) if lease.note))

    hosts.cable("down")
    here = hosts.worker("a", "here")
    until(lambda: queue.stats().totals.get("lost", 0) > 0)  # "there" is taken for dead, and "here" has its shard
    until(lambda: (state := queue.state(job)) is not None and state.counters["scores"]["parts"] > 0)
    hosts.cable("up")
    until(lambda: queue.stats().totals.get("refused", 0) > 0)  # "there" lives, and has lost the shard
    ended = json.loads(hosts.winnow("watch", "--json", job).splitlines()[-1])
    assert (ended["status"], ended["error"]) == ("succeeded", None)
    assert (ended["progress"]["documents_done"], ended["progress"]["shards_done"]) == (4 * DOCUMENTS, 4)
    assert queue.stats().totals["scores/documents"] == 4 * DOCUMENTS
    hosts.winnow("download", job, "--out", str(tmp_path / "result"))
    assert (tmp_path / "result" / "manifest-medium-0.3.parquet").read_bytes() == expected

    here.terminate()
    assert here.wait(20) == 0
    more = hosts.winnow(*submit, str(write_corpus(tmp_path / "more", files=1))).strip()
    until(lambda: more in queue.labelled("succeeded"))  # by "there", joined again
    client.close()


def _workspace_id(client: Any) -> str:
    """The id of the one workspace that a Redis serves."""
    (key,) = client.keys("winnow:{*}:epoch")
    return str(key.partition("{")[2].partition("}")[0])
