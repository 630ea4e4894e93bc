"""What the page says of opening a manifest, run as it stands there: the tools read the rows that the selection kept."""

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.page.serving import Serving, lines

for package in ("datasets", "duckdb", "polars"):
    pytest.importorskip(package, reason=f"{package} is not installed: make test-peers installs it and runs this")

Run = Callable[..., str]
ROWS = {  # how to ask each tool for its rows
    "datasets": "kept.to_list()",
    "DuckDB": "[dict(zip(kept.columns, row)) for row in kept.fetchall()]",
    "Polars": "kept.to_dicts()",
}


@pytest.fixture(scope="module")
def downloaded(serving: Serving, scored: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which `winnow download` has put the job's files."""
    folder = tmp_path_factory.mktemp("downloaded")
    command = [sys.executable, "-m", "service.commands.cli", "download", scored["id"], "--server", serving.url]
    subprocess.run([*command, "--out", str(folder)], check=True, timeout=60)
    return folder


@pytest.fixture
def kept(serving: Serving, scored: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the first selection, which the page shows how to open, as the service gives them in JSON."""
    made = scored["selections"][0]
    rows = list(lines(serving.api.get(made["manifest_url"], params={"format": "jsonl"})))
    assert len(rows) == made["documents"] > 0
    return rows


@pytest.fixture
def run(serving: Serving, scored: dict[str, Any], downloaded: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What Python prints of a tool's lines on the job's page, and of more behind them, in the folder of its files."""
    monkeypatch.setenv("HF_HOME", str(downloaded / "cache"))  # caches of its own, and no hub
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    page = serving.api.get(f"/jobs/{scored['id']}").text

    def say(tool: str, more: str = "") -> str:
        (code,) = re.findall(rf"<summary>Open a manifest in {tool}</summary><pre[^>]*>(.*?)</pre>", page, re.DOTALL)
        command = [sys.executable, "-c", f"{html.unescape(code)}\n{more}"]
        ran = subprocess.run(command, cwd=downloaded, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return say


@pytest.mark.parametrize("tool", ROWS)
def test_the_tool_reads_the_rows_that_were_kept(run: Run, kept: list[dict[str, Any]], tool: str) -> None:
    said = run(tool, f"import json\nprint(json.dumps({ROWS[tool]}))")
    assert json.loads(said.splitlines()[-1]) == kept


def test_duckdb_counts_the_domains(run: Run, kept: list[dict[str, Any]]) -> None:
    table = run("DuckDB")
    wanted: dict[str, tuple[int, int]] = {}
    for row in kept:
        documents, tokens = wanted.get(row["domain"], (0, 0))
        wanted[row["domain"]] = documents + 1, tokens + row["n_tokens"]
    found = re.findall(r"│ *(\w+) *│ *(\d+) *│ *(\d+) *│", table)
    assert {domain: (int(documents), int(tokens)) for domain, documents, tokens in found} == wanted
