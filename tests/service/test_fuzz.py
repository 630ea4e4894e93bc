"""The HTTP API under whatever its own description allows and forbids: no 5xx, no answer that it does not describe.

WINNOW_FUZZ_EXAMPLES and WINNOW_FUZZ_SEED choose another number of cases for each operation and another seed.
"""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.contract.permissions import Rules
from service.contract.schemas import Job, JobRequest
from service.jobs.jobs import Jobs
from tests.service.api_server import bearer, serving
from tests.service.pool import until

EXAMPLES = os.environ.get("WINNOW_FUZZ_EXAMPLES", "8")
SEED = os.environ.get("WINNOW_FUZZ_SEED") or str(random.randrange(2**32))
# What a schema allows may still name no file, no model or no selection that a job can have.
CHECKS = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]


def fuzz(url: str, headers: dict[str, str], folder: Path, settings: str = "") -> None:
    """Runs schemathesis on a live API; fails with what it found."""
    (folder / "schemathesis.toml").write_text(settings)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run"]
    command += [f"{url}/openapi.json", "--max-examples", EXAMPLES, "--seed", SEED, "--no-color", *CHECKS]
    command += ["--phases", "examples,coverage,fuzzing", "--request-timeout", "30", "--no-shrink"]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    shown = ran.stdout + ran.stderr
    sys.stdout.write(f"seed {SEED}\n")
    assert ran.returncode == 0, shown[-6000:]
    assert "32 selected / 32 total" in shown, shown


@pytest.fixture
def worked(
    start_worker: Callable[..., object], jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rules]:
    """Rules by which jobs may read one folder, where relative paths lead.

    A worker takes what the calls submit, and nothing of it is more than it can bear.
    """
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    start_worker()
    yield Rules(corpus_roots=(str(folder),))
    until(lambda: not any(job.finished_at is None for job in jobs.page(200).data))
    broken = [job.error for job in jobs.page(200, status="failed").data if job.error and job.error.status != 422]
    assert broken == []


def test_calls_of_no_job(worked: Rules, jobs: Jobs, tmp_path: Path) -> None:
    with serving(jobs, worked, always_keys=True) as url:
        fuzz(url, bearer(jobs, "submit"), tmp_path)


def test_calls_of_a_job_that_has_succeeded(
    worked: Rules, jobs: Jobs, make_request: Callable[..., JobRequest], wait_for: Callable[..., Job], tmp_path: Path
) -> None:
    job, _ = jobs.create(make_request())
    wait_for(job.id, "succeeded")
    known = f'[parameters]\n"path.job_id" = "{job.id}"\n"path.selection_id" = ["medium-0.5", "low-0.1", "all"]\n'
    with serving(jobs, worked, always_keys=True) as url:
        fuzz(url, bearer(jobs, "admin"), tmp_path, known)
        assert jobs.get(job.id).status == "succeeded"
