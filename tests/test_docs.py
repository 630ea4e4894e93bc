"""The README cannot drift: every command, endpoint, setting and column that users rely on is in it."""

import re
from pathlib import Path

import pytest

from pruner.select.manifest import MANIFEST
from service.commands.cli import COMMANDS
from service.http.routes import events, explore, files, health, jobs, score, selections
from service.run.settings import Settings

README = (Path(__file__).parent.parent / "README.md").read_text()
PARTS = (jobs, selections, files, events, explore, score, health)
ROUTES = sorted({route.path for part in PARTS for route in part.router.routes})


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_explained(command: str) -> None:
    assert f"`winnow {command}" in README or f"`{command}`" in README


@pytest.mark.parametrize("path", ROUTES)
def test_each_endpoint_is_explained(path: str) -> None:
    assert path.replace("job_id", "id") in README


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_explained(name: str) -> None:
    assert f"`WINNOW_{name.upper()}`" in README
    assert f"`--{name.replace('_', '-')}`" in README


@pytest.mark.parametrize("column", MANIFEST.names)
def test_each_column_is_explained(column: str) -> None:
    assert f"`{column}`" in README


def test_every_metric_is_explained() -> None:
    board = (Path(__file__).parent.parent / "deploy" / "monitoring" / "grafana.json").read_text()
    assert all(f"`{name}`" in README for name in re.findall(r"winnow_[a-z_]+(?=_bucket)|winnow_[a-z_]+(?={)", board))


def test_what_the_readme_promises_of_files_is_there() -> None:
    root = Path(__file__).parent.parent
    named = re.findall(r"\b(?:deploy|tests)/[\w/.-]*\w", README)
    assert [name for name in named if not (root / name).exists() and name != "deploy/winnow.env"] == []
    for name in (
        "tests/gpu/run.sh",
        "tests/gpu/RESULTS.md",
        "deploy/demo.py",
        "LICENSE",
        "SECURITY.md",
        "constraints.txt",
    ):
        assert (root / name).is_file()
