"""`winnow serve` as a process, for tests that look at it, talk to it and kill it or a part of it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import httpx

from service.contract.schemas import JobRequest
from service.run import subprocesses as child
from service.run.settings import Settings
from tests.service.pool import NO_TLS, until


class Service:
    """A running `winnow serve` and the calls that the tests make to it."""

    def __init__(self, workspace: Path | str, log: Path, env: dict[str, str] | None = None, **settings: Any) -> None:
        given: dict[str, Any] = {"port": 0, "device": "cpu", "workers": 1, "lease_seconds": 2, "redis": None}
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                child.python("from service.commands.cli import main; sys.exit(main(['serve']))"),
                env=Settings(workspace=str(workspace), **(given | settings)).environment() | (env or {}),
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.url = ""

    def ready(self) -> "Service":
        """Waits for the line that says where it is."""

        def line() -> str | None:
            assert self.process.poll() is None, self.output()
            said = [text for text in self.output().splitlines() if text.startswith("Winnow is ready at ")]
            return said[0] if said else None

        self.url = until(line).removeprefix("Winnow is ready at ")
        return self

    def output(self) -> str:
        return self._log.read_text()

    def submit(self, request: JobRequest | dict[str, Any]) -> str:
        body = request.model_dump(mode="json") if isinstance(request, JobRequest) else request
        answer = httpx.post(f"{self.url}/v1/jobs", json=body, verify=NO_TLS)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> Any:
        """The job, or one of no status while the service does not answer as it should."""
        answer = httpx.get(f"{self.url}/v1/jobs/{job_id}", verify=NO_TLS)
        return answer.json() if answer.status_code == 200 else {"status": None}

    def ended(self, job_id: str) -> Any:
        until(lambda: self.job(job_id)["status"] in ("succeeded", "failed", "cancelled"))
        return self.job(job_id)

    def workers(self) -> dict[str, int]:
        """The scoring workers that it started, by name."""
        found = {}
        for pid in children_of(self.process.pid):
            name = re.search(r"main\('(serve[\w-]*-\d+)'", command_of(pid))
            if name is not None:
                found[name.group(1)] = pid
        return found

    def children(self) -> dict[str, int]:
        """The processes it started, by what they are: `redis`, `light`, `0`."""
        return family(self.process.pid)


def family(parent: int) -> dict[str, int]:
    """The workers and the Redis of a service, among its children: kind -> id."""
    found = {}
    for pid in children_of(parent):
        command = command_of(pid)
        worker = re.search(r"main\('serve[\w.-]*-(\w+)'", command)
        if worker is not None:
            found[worker[1]] = pid
        elif "redis" in command:
            found["redis"] = pid
    return found


def children_of(parent: int) -> list[int]:
    """The living processes that a process started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(status[1]) == parent and status[0] != "Z":
                found.append(int(entry.name))
    return found


def command_of(pid: int) -> str:
    """The command line of a process, empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def gone(pids: list[int]) -> bool:
    """Whether all these processes have ended (one that nobody waits for, in a container, may stay as a zombie)."""

    def there(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return not any(there(pid) for pid in pids)
