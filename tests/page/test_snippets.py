"""The code on a job's page that submits the same job again, and makes the same export."""

import hashlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from service.page.snippets import curl, export_commands, python
from tests.page.serving import Serving
from tests.service.pool import until
from tests.service.shell import Run


def post(serving: Serving, command: str) -> Any:
    """The answer to what a curl command sends."""
    call = shlex.split(command)
    return serving.api.post(call[1], content=call[-1], headers=dict([call[3].split(": ")])).json()


def test_the_curl_command_submits_the_same_job(serving: Serving, scored: dict[str, Any]) -> None:
    assert post(serving, curl(serving.url, scored))["request"] == scored["request"]


@pytest.mark.parametrize("paths", [1, 5000])
def test_the_python_code_submits_the_same_job_and_saves_its_manifests(
    serving: Serving, scored: dict[str, Any], tmp_path: Path, paths: int
) -> None:
    long = scored["request"] | {"corpus": scored["request"]["corpus"] | {"paths": ["/none"] * paths}}
    code = python(serving.url, scored if paths == 1 else scored | {"request": long})
    assert ("get_job" in code) == (paths > 1)
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    made = {f"manifest-{selection['id']}.parquet": selection["documents"] for selection in scored["selections"]}
    assert {path.name: pq.read_metadata(path).num_rows for path in tmp_path.iterdir()} == made


def test_the_commands_of_an_export_make_the_same(
    serving: Serving, scored: dict[str, Any], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = f"/v1/jobs/{scored['id']}"
    asked = {"format": "jsonl.zst", "scores": True}
    address = serving.api.post(f"{job}/selections/high-0.25/exports", json=asked).headers["location"]
    assert until(lambda: serving.api.get(address).json()["status"] == "succeeded")
    export = serving.api.get(address).json()
    filling, calling = export_commands(serving.url, scored["id"], export)
    monkeypatch.chdir(tmp_path)
    ran = run(*shlex.split(filling)[1:])
    assert ran.status == 0, ran.err
    wanted = {file["path"]: file["sha256"] for file in export["files"]}
    assert wanted == {name: hashlib.sha256((tmp_path / "high-0.25" / name).read_bytes()).hexdigest() for name in wanted}
    assert post(serving, calling) == export


def test_an_export_into_a_folder_of_the_service_is_asked_of_its_api(serving: Serving, scored: dict[str, Any]) -> None:
    out = str(serving.exports / "all")
    export = {"id": "0", "selection": "all", "format": "same", "scores": False, "out": out}
    (calling,) = export_commands(serving.url, scored["id"], export)
    assert post(serving, calling)["out"] == out
