"""Ctrl-C in a command: while it is imported, while a job runs here, and while it waits for one of a service."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.pool import until, write_corpus

# A shell ignores Ctrl-C for background jobs, and a test may be one: the command is to have it as at a terminal.
START = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
COMMAND = [sys.executable, "-c", f"{START}; from service.commands.cli import main; sys.exit(main())"]
# What a module's import does in the place of `pydantic`; Python before 3.12 wraps what `__set_name__` raises.
IMPORTS = {
    "at once": "signal.raise_signal(signal.SIGINT)",
    "in a class": "type('Odd', (), {'__set_name__': lambda *_: signal.raise_signal(signal.SIGINT)})",
}


@pytest.mark.parametrize("there", IMPORTS)
def test_ctrl_c_while_a_command_is_imported_is_quiet_and_says_130(there: str) -> None:
    start = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "pydantic":
            found = {IMPORTS[there]}
            type("Class", (), {{"field": found()}})

sys.meta_path.insert(0, Interrupted())
from service.commands.cli import main
sys.exit(main(["check", "."]))
"""
    ran = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_ctrl_c_is_quiet_and_says_130(tmp_path: Path, corpus: Path, reference: Path) -> None:
    write_corpus(tmp_path / "large", files=10, documents=120, words=400)
    arguments = ["prune", str(tmp_path / "large"), "--reference", str(reference), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: list((tmp_path / "out" / ".winnow").rglob("scores/*/*.parquet")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert out == ""


def test_ctrl_c_says_where_the_work_of_a_service_goes_on(
    api: httpx.Client, pruned: dict[str, Any], corpus: Path, reference: Path, tmp_path: Path
) -> None:
    job, url = pruned["id"], str(api.base_url).rstrip("/")
    out = ["--server", url, "--out", str(tmp_path / "out")]
    commands = {  # the service has no worker, so that all of them wait
        "job": ["submit", str(corpus), "--reference", str(reference), "--watch", "--server", url],
        "export": ["export", job, "--selection", "all", *out],
        "ablation": ["ablate", job, "--selection", "medium-0.5", "--heldout", f"corpus={corpus}", *out],
    }
    started = {
        name: subprocess.Popen([*COMMAND, *given], stderr=subprocess.PIPE, text=True)
        for name, given in commands.items()
    }
    for name, process in started.items():
        assert process.stderr is not None
        assert process.stderr.readline()  # it waits
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        made = api.get("/v1/jobs").json()["data"][0]["id"] if name == "job" else job
        said = f"the {name} goes on: {url}/jobs/{made}"
        if name == "ablation":
            said += f"#ablation-{api.get(f'/v1/jobs/{job}/ablations').json()['data'][0]['id']}"
        assert err.splitlines()[-1] == said
