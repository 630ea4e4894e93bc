"""What the page says of opening a manifest, run as it stands there: the tools read the rows that the selection kept."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.page.serving import Serving, lines

for package in ("datasets", "duckdb", "polars"):
    pytest.importorskip(package, reason=f"{package} is not installed: make test-peers installs it and runs this")

ROWS = {  # how to ask each tool for its rows
    "datasets": "kept.to_list()",
    "DuckDB": "[dict(zip(kept.columns, row)) for row in kept.fetchall()]",
    "Polars": "kept.to_dicts()",
}


@pytest.fixture(scope="module")
def downloaded(serving: Serving, scored: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which `winnow download` has put the job's files."""
    folder = tmp_path_factory.mktemp("downloaded")
    command = [sys.executable, "-m", "service.cli", "download", scored["id"], "--server", serving.url]
    subprocess.run([*command, "--out", str(folder)], check=True, timeout=60)
    return folder


@pytest.fixture
def kept(serving: Serving, scored: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the first selection, which the page shows how to open, as the service gives them in JSON."""
    made = scored["selections"][0]
    rows = list(lines(serving.api.get(made["manifest_url"], params={"format": "jsonl"})))
    assert len(rows) == made["documents"] > 0
    return rows


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What Python prints of this code in a folder, with caches of its own and no hub."""
    monkeypatch.setenv("HF_HOME", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def shown(serving: Serving, job: dict[str, Any], tool: str) -> str:
    """The code on the job's page."""
    page = serving.api.get(f"/jobs/{job['id']}").text
    (code,) = re.findall(rf"<summary>Open a manifest in {tool}</summary><pre[^>]*>(.*?)</pre>", page, re.DOTALL)
    return html.unescape(code)


@pytest.mark.parametrize("tool", ROWS)
def test_the_tool_reads_the_rows_that_were_kept(
    serving: Serving,
    scored: dict[str, Any],
    downloaded: Path,
    kept: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    tool: str,
) -> None:
    code = f"{shown(serving, scored, tool)}\nimport json\nprint(json.dumps({ROWS[tool]}))"
    assert json.loads(run(code, downloaded, monkeypatch).splitlines()[-1]) == kept


def test_duckdb_counts_the_domains(
    serving: Serving,
    scored: dict[str, Any],
    downloaded: Path,
    kept: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = run(shown(serving, scored, "DuckDB"), downloaded, monkeypatch)
    wanted: dict[str, tuple[int, int]] = {}
    for row in kept:
        documents, tokens = wanted.get(row["domain"], (0, 0))
        wanted[row["domain"]] = documents + 1, tokens + row["n_tokens"]
    found = re.findall(r"│ *(\w+) *│ *(\d+) *│ *(\d+) *│", table)
    assert {domain: (int(documents), int(tokens)) for domain, documents, tokens in found} == wanted
