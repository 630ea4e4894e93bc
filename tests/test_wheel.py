"""The wheel, built as `pip install .` builds it: it holds every module, script and page that the program reads."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser

import pytest

import service
from tests.test_house import ROOMS, ROOT


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
    built = subprocess.run([*command, "--wheel-dir", str(out), str(source)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def wheel(archive: zipfile.ZipFile) -> set[str]:
    """The names of the files in the wheel."""
    return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_rooms(wheel: set[str]) -> None:
    files = {path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()}
    wanted = {str(path) for path in files if "__pycache__" not in path.parts and path.suffix != ".md"}
    assert {name for name in wanted if name.endswith(".lua")}
    assert wanted - wheel == set()


def test_the_wheel_holds_nothing_else(wheel: set[str]) -> None:
    assert {name.partition("/")[0] for name in wheel if ".dist-info/" not in name} == set(ROOMS)


def test_the_wheel_is_typed_and_tells_its_version_and_licence(archive: zipfile.ZipFile, wheel: set[str]) -> None:
    assert {f"{room}/py.typed" for room in ROOMS} <= wheel
    about = f"winnow-{service.__version__}.dist-info"
    told = Parser().parsestr(archive.read(f"{about}/METADATA").decode())
    assert (told["Version"], told["License-Expression"]) == (service.__version__, "Apache-2.0")
    assert f"{about}/licenses/LICENSE" in wheel
    assert "winnow = service.commands.cli:main" in archive.read(f"{about}/entry_points.txt").decode()
