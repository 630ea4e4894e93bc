"""The source archive and the wheel, and the wheel with what it asks for in a new environment: `make test-install`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import service
from tests.service.pool import until
from tests.test_house import ROOT

pytestmark = pytest.mark.skipif(not os.environ.get("WINNOW_TEST_LONG"), reason="make test-install runs this")
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")
OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")


def ran(*command: object, folder: Path, status: int = 0) -> str:
    """Both outputs of a command that ends with this status, in a folder, without the checkout on the path."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, command)), env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def wheel_in(folder: Path) -> Path:
    (path,) = folder.glob("*.whl")
    return path


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, as builds leave files there."""
    copy = tmp_path_factory.mktemp("checkout") / "winnow"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    return copy


@pytest.fixture(scope="module")
def dist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that is built of it."""
    out = tmp_path_factory.mktemp("dist")
    program = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    ran(sys.executable, "-c", program, folder=checkout)
    (archive,) = out.glob("*.tar.gz")
    ran(sys.executable, *PIP, "wheel", *OFFLINE, "--wheel-dir", out, archive, folder=out)
    return out


@pytest.fixture(scope="module")
def programs(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a new environment that holds the wheel and what it asks for, and nothing else."""
    home = tmp_path_factory.mktemp("environment")
    ran(sys.executable, "-m", "venv", home, folder=home)
    pinned = ("--no-compile", "--constraint", ROOT / "constraints.txt")
    ran(home / "bin" / "python", *PIP, "install", *pinned, wheel_in(dist), folder=home)
    return home / "bin"


@pytest.fixture
def ten_lines(tmp_path: Path) -> Path:
    path = tmp_path / "ten.jsonl"
    rows = [
        {"text": f"Line {number} of ten says that {'all is well and ' * (number + 1)}done."} for number in range(10)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_source_archive_makes_the_same_wheel_and_holds_no_tests(checkout: Path, dist: Path, tmp_path: Path) -> None:
    ran(sys.executable, *PIP, "wheel", *OFFLINE, "--wheel-dir", tmp_path, checkout, folder=tmp_path)
    assert names_in(wheel_in(dist)) == names_in(wheel_in(tmp_path))
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "constraints.txt", "pyproject.toml"} <= names
    assert not {name for name in names if name.startswith(("tests", "deploy", "docs"))}


def test_the_command_tells_the_version(programs: Path, tmp_path: Path) -> None:
    assert ran(programs / "winnow", "--version", folder=tmp_path) == f"winnow {service.__version__}\n"
    ran(programs / "python", *PIP, "check", folder=tmp_path)


def test_ten_lines_are_pruned(programs: Path, ten_lines: Path, tmp_path: Path) -> None:
    arguments = ("--tokens", 1_000, "--fraction", 0.4, "--select", "low", "--rate", 0.5, "--out", tmp_path / "out")
    ran(programs / "winnow", "prune", ten_lines, *arguments, folder=tmp_path)
    kept = pq.read_table(tmp_path / "out" / "manifest-low-0.5.parquet")
    scored = pq.read_table(tmp_path / "out" / "scores")
    assert len(scored) == 10
    eligible = len(scored) - sum(scored["training"].to_pylist())
    assert len(kept) == (eligible + 1) // 2


def test_the_service_starts_with_a_redis_of_its_own_and_serves_the_page(programs: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [programs / "winnow", "serve", "--workspace", tmp_path / "workspace", "--port", "0", "--workers", "0"]
    with log.open("wb") as out:
        started = subprocess.Popen(list(map(str, command)), env=env, cwd=tmp_path, stdout=out, stderr=out)
    try:
        url = until(lambda: re.search(r"ready at (http://\S+)", log.read_text()))[1]
        for path in ("/readyz", "/", "/docs", "/static/winnow.css", "/static/winnow.js"):
            with urllib.request.urlopen(f"{url}{path}") as answer:
                assert answer.status == 200, path
    finally:
        started.send_signal(signal.SIGTERM)
        assert started.wait(60) == 0, log.read_text()


def test_beside_the_distribution_kernels_the_error_says_what_to_do_and_that_works(
    programs: Path, dist: Path, ten_lines: Path, tmp_path: Path
) -> None:
    stub = tmp_path / "stub"
    (stub / "kernels").mkdir(parents=True)
    (stub / "kernels" / "__init__.py").write_text('"""A stand-in for the distribution of Hugging Face."""\n')
    (stub / "pyproject.toml").write_text('[project]\nname = "kernels"\nversion = "0.17.2"\n')
    ran(sys.executable, *PIP, "wheel", *OFFLINE, "--wheel-dir", tmp_path, stub, folder=tmp_path)
    pip = (programs / "python", *PIP)
    command = (programs / "winnow", "prune", ten_lines, "--tokens", 1_000, "--out", tmp_path / "out")
    ran(*pip, "install", "--no-index", wheel_in(tmp_path), folder=tmp_path)
    error = ran(*command, folder=tmp_path, status=1)
    assert "the distribution kernels 0.17.2 is installed" in error
    assert "pip uninstall kernels" in error
    ran(*pip, "uninstall", "--yes", "kernels", folder=tmp_path)
    ran(*pip, "install", "--no-index", "--no-deps", "--force-reinstall", wheel_in(dist), folder=tmp_path)
    ran(*command, folder=tmp_path)
