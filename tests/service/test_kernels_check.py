"""A command that runs models refuses to start beside another package or distribution called `kernels`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def winnow(*arguments: str, path: list[Path]) -> tuple[int, str]:
    """Exit status and standard error of a command, with these folders first on sys.path."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-m", "service.commands.cli", *arguments]
    ran = subprocess.run(command, env=env, cwd=path[0], capture_output=True, text=True)
    return ran.returncode, ran.stderr


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A folder with another package `kernels`, which must not be imported."""
    folder = tmp_path / "stub"
    (folder / "kernels").mkdir(parents=True)
    (folder / "kernels" / "__init__.py").write_text("raise SystemExit('the other package was imported')\n")
    return folder


def install(folder: Path) -> None:
    """Makes the stub a distribution, as pip does."""
    (folder / "kernels-0.17.2.dist-info").mkdir()
    (folder / "kernels-0.17.2.dist-info" / "METADATA").write_text("Name: kernels\nVersion: 0.17.2\n")


def test_another_package_that_is_found_first_is_refused(stub: Path, tmp_path: Path) -> None:
    status, error = winnow("convert", str(tmp_path), "--out", str(tmp_path / "out"), path=[stub, ROOT])
    assert status == 1
    assert f"`import kernels` does not find {ROOT / 'kernels'}, but {stub / 'kernels'}" in error
    assert "install Winnow in an environment of its own (a new venv, pipx, uv tool or a container)" in error


@pytest.mark.parametrize("first", ["Winnow", "the distribution"])
def test_an_installed_distribution_is_refused_wherever_it_is_on_the_path(
    stub: Path, tmp_path: Path, first: str
) -> None:
    install(stub)
    path = [ROOT, stub] if first == "Winnow" else [stub, ROOT]
    status, error = winnow("convert", str(tmp_path), "--out", str(tmp_path / "out"), path=path)
    assert (status, error.count("\n")) == (1, 1)
    assert "the distribution kernels 0.17.2 is installed" in error


def test_winnow_alone_starts(tmp_path: Path) -> None:
    status, error = winnow("convert", str(tmp_path), "--out", str(tmp_path / "out"), path=[ROOT])
    assert status == 1
    assert "kernels" not in error
    assert str(tmp_path) in error  # no checkpoint there


def test_commands_that_run_no_model_need_no_check(stub: Path) -> None:
    install(stub)
    status, error = winnow("status", "--server", "http://127.0.0.1:9", path=[stub, ROOT])
    assert status == 1
    assert "kernels" not in error
